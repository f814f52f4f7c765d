//! ContainerPatches: choosing them for a Pod, applying them to a rendered container, and checking the result
//! (BEHAVIOUR section 2.7, DESIGN decisions 1, 2 and 7).

mod admission;
mod checks;
mod operation;
mod validate;

use kermode_crds::annotation::CONTAINER_PATCHES;
use kermode_crds::{ContainerPatchSpec, JsonPatchBlock};
use serde_json::Value;

pub use self::admission::{PatchProblem, validate_container_patch};
use crate::changes;
use crate::denial::{Denial, quoted};
use crate::trace::{Trace, TraceTopic};

/// Most operations on one container. Far above any use; keeps the time of an admission bounded.
const MOST_OPERATIONS: usize = 1_000;

/// One operation of a ContainerPatch, with where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Name of the ContainerPatch.
    pub patch: &'a str,
    /// `sidecarPatch` or `initPatch`.
    pub list: &'static str,
    /// Its place in that list, from 0.
    pub index: usize,
    /// The operation.
    pub block: &'a JsonPatchBlock,
}

/// What a container is, since Kubernetes allows some fields of one kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// An ordinary container, or an init container that keeps running.
    Running,
    /// An init container that runs to its end.
    Init,
}

/// At which point ContainerPatches failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchStage {
    /// An operation does not apply.
    Apply,
    /// The operations apply, but Kubernetes would refuse the result or silently drop part of it.
    Decode,
}

/// ContainerPatches that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not apply patches [{}]: {}", quoted(.patches), .problems.join("; "))]
pub struct PatchFailure {
    /// At which point.
    pub stage: PatchStage,
    /// The ContainerPatches that take part, in their order.
    pub patches: Vec<String>,
    /// What is wrong; each names the ContainerPatch, the operation's index and its path.
    pub problems: Vec<String>,
}

/// The ContainerPatches of one Pod, in the order in which they apply.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected(Vec<(String, ContainerPatchSpec)>);

// === impl Selected ===

impl Selected {
    /// Looks all names up. The Pod's own list replaces the default one, even if it is empty.
    pub(crate) fn look_up(
        own: Option<Vec<String>>,
        default: &[String],
        find: &dyn Fn(&str) -> Option<ContainerPatchSpec>,
        trace: &mut Trace,
    ) -> Result<Self, Denial> {
        trace.note(TraceTopic::ContainerPatches, || chosen(own.as_deref(), default));
        let names = own.unwrap_or_else(|| default.iter().filter(|name| !name.is_empty()).cloned().collect());
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match find(&name) {
                Some(spec) => found.push((name, spec)),
                None => missing.push(name),
            }
        }
        if missing.is_empty() {
            Ok(Self(found))
        } else {
            Err(Denial::ContainerPatchesMissing { names: missing })
        }
    }

    /// All operations for `kuma-sidecar`.
    pub(crate) fn sidecar(&self) -> Vec<Operation<'_>> {
        self.operations("sidecarPatch", |spec| &spec.sidecar_patch)
    }

    /// All operations for the init container.
    pub(crate) fn init(&self) -> Vec<Operation<'_>> {
        self.operations("initPatch", |spec| &spec.init_patch)
    }

    fn operations<'a>(
        &'a self,
        list: &'static str,
        blocks: impl Fn(&'a ContainerPatchSpec) -> &'a Vec<JsonPatchBlock>,
    ) -> Vec<Operation<'a>> {
        let of_patch = |(patch, spec): &'a (String, ContainerPatchSpec)| {
            blocks(spec)
                .iter()
                .enumerate()
                .map(move |(index, block)| Operation {
                    patch,
                    list,
                    index,
                    block,
                })
        };
        self.0.iter().flat_map(of_patch).collect()
    }
}

fn chosen(own: Option<&[String]>, default: &[String]) -> String {
    match own {
        Some(own) => format!(
            "annotation {CONTAINER_PATCHES} of the Pod names [{}], which replaces the setting containerPatches [{}]",
            quoted(own),
            quoted(default)
        ),
        None => format!("the setting containerPatches names [{}]", quoted(default)),
    }
}

// === impl Operation ===

impl Operation<'_> {
    fn describe(&self, problem: &str) -> String {
        format!(
            "ContainerPatch {:?}, {}[{}] ({} {}): {problem}",
            self.patch,
            self.list,
            self.index,
            self.block.op.as_str(),
            shortened(&self.block.path),
        )
    }
}

fn shortened(path: &str) -> String {
    const MOST: usize = 200;
    if path.chars().count() <= MOST {
        return path.to_owned();
    }
    let start: String = path.chars().take(MOST).collect();
    format!("{start}...")
}

/// Applies operations to a container, all or none, and checks what comes out. The result stays raw JSON; members
/// that are null are dropped, as decoding would.
///
/// # Errors
/// When an operation does not apply, or Kubernetes would not take the result as it is.
pub fn apply(
    container: &Value,
    operations: &[Operation<'_>],
    role: ContainerRole,
) -> Result<Value, PatchFailure> {
    if operations.is_empty() {
        return Ok(container.clone());
    }
    let failure = |stage, problems| PatchFailure {
        stage,
        patches: names(operations),
        problems,
    };
    if operations.len() > MOST_OPERATIONS {
        let problem = format!(
            "{} operations are too many, at most {MOST_OPERATIONS}",
            operations.len()
        );
        return Err(failure(PatchStage::Apply, vec![problem]));
    }
    let patched =
        apply_all(container, operations).map_err(|problem| failure(PatchStage::Apply, vec![problem]))?;
    let problems = validate::problems(&patched, role);
    if problems.is_empty() {
        return Ok(patched);
    }
    let before = validate::problems(&operation::without_nulls(container.clone()), role);
    let introduced: Vec<String> = problems
        .iter()
        .filter(|problem| !before.contains(problem))
        .map(|problem| culprit(container, operations, role, problem).describe(problem))
        .collect();
    if introduced.is_empty() {
        Ok(patched)
    } else {
        Err(failure(PatchStage::Decode, introduced))
    }
}

/// Applies operations and records what each of them changes.
pub(crate) fn apply_traced(
    container: &Value,
    operations: &[Operation<'_>],
    role: ContainerRole,
    trace: &mut Trace,
) -> Result<Value, PatchFailure> {
    if trace.is_on() {
        record(container, operations, trace);
    }
    let patched = apply(container, operations, role)?;
    trace.rendered(container, &patched);
    Ok(patched)
}

fn record(container: &Value, operations: &[Operation<'_>], trace: &mut Trace) {
    let mut before = container.clone();
    for operation in operations.iter().take(MOST_OPERATIONS) {
        let mut after = before.clone();
        let applied = operation::apply(&mut after, operation.block);
        if let Err(problem) = applied {
            trace.note(TraceTopic::ContainerPatches, || operation.describe(&problem));
            return;
        }
        trace.note(TraceTopic::ContainerPatches, || {
            let changes = changes::between(&before, &after);
            let none = changes.is_empty().then(|| "changes nothing".to_owned());
            operation.describe(&none.unwrap_or_else(|| changes.join("; ")))
        });
        before = after;
    }
}

fn apply_all(container: &Value, operations: &[Operation<'_>]) -> Result<Value, String> {
    let mut patched = container.clone();
    for operation in operations {
        operation::apply(&mut patched, operation.block).map_err(|problem| operation.describe(&problem))?;
    }
    Ok(operation::without_nulls(patched))
}

/// An operation that brings a problem about: without it the prefix is free of it, with it not. Report by bisection.
fn culprit<'a, 'b>(
    container: &Value,
    operations: &'a [Operation<'b>],
    role: ContainerRole,
    problem: &String,
) -> &'a Operation<'b> {
    let (mut clean, mut spoilt) = (0, operations.len());
    while spoilt - clean > 1 {
        let middle = usize::midpoint(clean, spoilt);
        let prefix = operations.get(..middle).unwrap_or_default();
        let has_it = apply_all(container, prefix)
            .is_ok_and(|patched| validate::problems(&patched, role).contains(problem));
        if has_it { spoilt = middle } else { clean = middle }
    }
    &operations[clean]
}

fn names(operations: &[Operation<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut last = None;
    for operation in operations {
        // A patch that is listed twice is named twice; its operations restart at index 0.
        if last != Some(operation.patch) || operation.index == 0 {
            names.push(operation.patch.to_owned());
        }
        last = Some(operation.patch);
    }
    names
}

#[cfg(test)]
mod tests;
