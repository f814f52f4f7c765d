//! Looks up the ContainerPatches of a Pod, applies them to a rendered container, and validates the result
//! (docs/reference/injection.md#container-patches).

mod admission;
mod checks;
mod operation;
mod validate;

use kermode_crds::annotation::CONTAINER_PATCHES;
use kermode_crds::{ContainerPatchSpec, JsonPatchBlock};
use serde_json::Value;

pub use self::admission::{PatchProblem, try_container_patch, validate_container_patch};
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
    /// Index of the operation in the list.
    pub index: usize,
    /// The operation.
    pub block: &'a JsonPatchBlock,
}

/// Role of a container. Kubernetes rejects probes and lifecycle hooks of a container that
/// [runs to completion](Self::RunsToCompletion).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// An ordinary container, or an init container with `restartPolicy: Always`.
    KeepsRunning,
    /// An init container that runs to completion.
    RunsToCompletion,
}

/// Stage at which ContainerPatches failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchStage {
    /// An operation does not apply.
    Apply,
    /// The operations apply, but Kubernetes would reject the result or silently drop part of it.
    Validate,
}

/// Failure to apply the ContainerPatches of a Pod to a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not apply patches [{}]: {}", quoted(.patches), .problems.join("; "))]
pub struct PatchFailure {
    /// Stage that failed.
    pub stage: PatchStage,
    /// Names of the ContainerPatches that have operations on the container, in order.
    pub patches: Vec<String>,
    /// Problems. Each problem of a single operation names its ContainerPatch, index and path.
    pub problems: Vec<String>,
}

/// ContainerPatches of one Pod, in order of application.
#[derive(Clone, Debug, Default)]
pub(crate) struct SelectedPatches(Vec<(String, ContainerPatchSpec)>);

// === impl SelectedPatches ===

impl SelectedPatches {
    /// Looks up the ContainerPatches that the Pod's annotation names (`own`). Without the annotation, looks up the
    /// ContainerPatches of the setting (`default`). An empty annotation selects no ContainerPatch
    /// (docs/design.md#container-patches-replace-defaults). Fails if a ContainerPatch does not exist.
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
    pub(crate) fn sidecar_operations(&self) -> Vec<Operation<'_>> {
        self.operations("sidecarPatch", |spec| &spec.sidecar_patch)
    }

    /// Returns all operations for the init container.
    pub(crate) fn init_operations(&self) -> Vec<Operation<'_>> {
        self.operations("initPatch", |spec| &spec.init_patch)
    }

    fn operations<'a>(
        &'a self,
        list: &'static str,
        blocks: impl Fn(&'a ContainerPatchSpec) -> &'a Vec<JsonPatchBlock>,
    ) -> Vec<Operation<'a>> {
        let operations_of_patch = |(patch, spec): &'a (String, ContainerPatchSpec)| {
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
        self.0.iter().flat_map(operations_of_patch).collect()
    }
}

fn describe_selection(own: Option<&[String]>, default: &[String]) -> String {
    match own {
        Some([]) => format!("none, because annotation {CONTAINER_PATCHES} of the Pod is empty"),
        Some(own) => format!(
            "annotation {CONTAINER_PATCHES} of the Pod names [{}] and replaces the setting containerPatches [{}]",
            quoted(own),
            quoted(default)
        ),
        None if default.is_empty() => {
            format!(
                "none, because neither annotation {CONTAINER_PATCHES} nor the setting containerPatches names one"
            )
        }
        None => format!("the setting containerPatches names [{}]", quoted(default)),
    }
}

// === impl Operation ===

impl Operation<'_> {
    /// Returns a message: the position of the operation, then `text`, which is a problem or a change.
    fn message(&self, text: &str) -> String {
        format!(
            "ContainerPatch {:?}, {}[{}] ({} {}): {text}",
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
    const MAX_PATH_CHARS: usize = 200;
    if path.chars().count() <= MAX_PATH_CHARS {
        return path.to_owned();
    }
    let start: String = path.chars().take(MAX_PATH_CHARS).collect();
    format!("{start}...")
}

/// Applies all operations to a container, or none if one fails, and validates the result. Null members are dropped, as
/// the API server drops them. Problems that the container already has without the operations are ignored.
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
        patches: patch_names(operations),
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
    let existing = validate::problems(&operation::without_nulls(container.clone()), role);
    let introduced: Vec<String> = problems
        .iter()
        .filter(|problem| !existing.contains(problem))
        .map(|problem| introducing_operation(container, operations, role, problem).message(problem))
        .collect();
    if introduced.is_empty() {
        Ok(patched)
    } else {
        Err(failure(PatchStage::Validate, introduced))
    }
}

/// Applies operations like [`apply`], and records the changes of each operation.
pub(crate) fn apply_traced(
    container: &Value,
    operations: &[Operation<'_>],
    role: ContainerRole,
    trace: &mut Trace,
) -> Result<Value, PatchFailure> {
    if trace.is_on() {
        trace_operations(container, operations, trace);
    }
    let patched = apply(container, operations, role)?;
    trace.record_container(container, &patched);
    Ok(patched)
}

fn trace_operations(container: &Value, operations: &[Operation<'_>], trace: &mut Trace) {
    let mut before = container.clone();
    for operation in operations.iter().take(MAX_OPERATIONS) {
        let mut after = before.clone();
        if let Err(problem) = operation::apply(&mut after, operation.block) {
            trace.note(TraceTopic::ContainerPatches, || operation.message(&problem));
            return;
        }
        trace.note(TraceTopic::ContainerPatches, || {
            let changes = changes::between(&before, &after);
            if changes.is_empty() {
                operation.message("changes nothing")
            } else {
                operation.message(&changes.join("; "))
            }
        });
        before = after;
    }
}

fn apply_all(container: &Value, operations: &[Operation<'_>]) -> Result<Value, String> {
    let mut patched = container.clone();
    for operation in operations {
        operation::apply(&mut patched, operation.block).map_err(|problem| operation.message(&problem))?;
    }
    Ok(operation::without_nulls(patched))
}

/// Finds by bisection the operation that introduces a problem: the container has the problem after the operation, but
/// not before.
fn introducing_operation<'a, 'b>(
    container: &Value,
    operations: &'a [Operation<'b>],
    role: ContainerRole,
    problem: &String,
) -> &'a Operation<'b> {
    // The problem is absent after the first `len_without` operations, and present after the first `len_with`
    // operations.
    let (mut len_without, mut len_with) = (0, operations.len());
    while len_with - len_without > 1 {
        let middle = usize::midpoint(len_without, len_with);
        let prefix = operations.get(..middle).unwrap_or_default();
        let has_problem = apply_all(container, prefix)
            .is_ok_and(|patched| validate::problems(&patched, role).contains(problem));
        if has_problem {
            len_with = middle;
        } else {
            len_without = middle;
        }
    }
    &operations[len_without]
}

/// Returns the names of the ContainerPatches that the operations belong to, in order.
fn patch_names(operations: &[Operation<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut last = None;
    for operation in operations {
        // A ContainerPatch that the annotation or setting names twice is listed twice. Each time, its operations begin
        // with index 0.
        if last != Some(operation.patch) || operation.index == 0 {
            names.push(operation.patch.to_owned());
        }
        last = Some(operation.patch);
    }
    names
}

#[cfg(test)]
mod tests;
