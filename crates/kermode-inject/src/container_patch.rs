//! ContainerPatches: selects those of a Pod, applies them to a rendered container, and validates the result
//! (docs/reference/injection.md#container-patches).

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

/// Maximum number of operations on one container. Bounds the duration of an admission; real patches have a few dozen.
const MAX_OPERATIONS: usize = 1_000;

/// One operation of a ContainerPatch and its position.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Name of the ContainerPatch.
    pub patch: &'a str,
    /// `sidecarPatch` or `initPatch`.
    pub list: &'static str,
    /// Index in that list.
    pub index: usize,
    /// The operation.
    pub block: &'a JsonPatchBlock,
}

/// Kind of a container. Kubernetes allows some fields for one kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// An ordinary container, or an init container with `restartPolicy: Always`.
    Running,
    /// An init container that runs to completion.
    Init,
}

/// Stage at which ContainerPatches failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchStage {
    /// An operation does not apply.
    Apply,
    /// The operations apply, but Kubernetes would reject the result or silently drop part of it.
    Decode,
}

/// Failure to apply the ContainerPatches of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not apply patches [{}]: {}", quoted(.patches), .problems.join("; "))]
pub struct PatchFailure {
    /// Stage that failed.
    pub stage: PatchStage,
    /// Names of the applied ContainerPatches, in order.
    pub patches: Vec<String>,
    /// Problems; each names the ContainerPatch, the operation's index and its path.
    pub problems: Vec<String>,
}

/// ContainerPatches of one Pod, in order of application.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected(Vec<(String, ContainerPatchSpec)>);

// === impl Selected ===

impl Selected {
    /// Looks up all names. The Pod's own list replaces the default, even if it is empty
    /// (docs/design.md#container-patches-replace-defaults).
    pub(crate) fn look_up(
        own: Option<Vec<String>>,
        default: &[String],
        find: &dyn Fn(&str) -> Option<ContainerPatchSpec>,
        trace: &mut Trace,
    ) -> Result<Self, Denial> {
        trace.note(TraceTopic::ContainerPatches, || {
            describe_selection(own.as_deref(), default)
        });
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

    /// Returns all operations for `kuma-sidecar`.
    pub(crate) fn sidecar(&self) -> Vec<Operation<'_>> {
        self.operations("sidecarPatch", |spec| &spec.sidecar_patch)
    }

    /// Returns all operations for the init container.
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

fn describe_selection(own: Option<&[String]>, default: &[String]) -> String {
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
            truncated(&self.block.path),
        )
    }
}

fn truncated(path: &str) -> String {
    /// Maximum length of a displayed path, in characters.
    const MAX_SHOWN: usize = 200;
    if path.chars().count() <= MAX_SHOWN {
        return path.to_owned();
    }
    let start: String = path.chars().take(MAX_SHOWN).collect();
    format!("{start}...")
}

/// Applies operations to a container, all or none, and validates the result. The result remains raw JSON; null members
/// are dropped, as decoding would.
///
/// # Errors
/// When an operation does not apply, or Kubernetes would reject the result or drop part of it.
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
    if operations.len() > MAX_OPERATIONS {
        let problem = format!(
            "{} operations exceed the limit of {MAX_OPERATIONS} for one container: split or remove patches",
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
        .map(|problem| introducing_operation(container, operations, role, problem).describe(problem))
        .collect();
    if introduced.is_empty() {
        Ok(patched)
    } else {
        Err(failure(PatchStage::Decode, introduced))
    }
}

/// Applies operations and records the changes of each of them.
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
    for operation in operations.iter().take(MAX_OPERATIONS) {
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

/// Finds by bisection the operation that introduces a problem: the container does not have the problem before the
/// operation, and has it afterwards.
fn introducing_operation<'a, 'b>(
    container: &Value,
    operations: &'a [Operation<'b>],
    role: ContainerRole,
    problem: &String,
) -> &'a Operation<'b> {
    let (mut good, mut bad) = (0, operations.len());
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        let prefix = operations.get(..middle).unwrap_or_default();
        let present = apply_all(container, prefix)
            .is_ok_and(|patched| validate::problems(&patched, role).contains(problem));
        if present { bad = middle } else { good = middle }
    }
    &operations[good]
}

fn names(operations: &[Operation<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut last = None;
    for operation in operations {
        // A ContainerPatch that is listed twice is named twice: each application starts at index 0.
        if last != Some(operation.patch) || operation.index == 0 {
            names.push(operation.patch.to_owned());
        }
        last = Some(operation.patch);
    }
    names
}

#[cfg(test)]
mod tests;
