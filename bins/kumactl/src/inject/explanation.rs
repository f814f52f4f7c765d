//! Explanations of injection decisions as text.

use kermode_inject::Outcome;

use kermode_manifests::WorkloadOutcome;

/// Formats the explanations in the order of the manifests.
pub(crate) fn text(outcomes: &[WorkloadOutcome]) -> String {
    if outcomes.is_empty() {
        return "No object is a Pod or has a Pod template.\n".to_owned();
    }
    let texts: Vec<String> = outcomes.iter().map(explain_workload).collect();
    texts.join("\n")
}

fn explain_workload(workload: &WorkloadOutcome) -> String {
    let mut lines = vec![format!("{}: {}", workload.name, outcome_text(workload))];
    let mut line = |topic: &str, text: &str| lines.push(format!("  {topic}: {text}"));
    for text in &workload.assumptions {
        line("assumed", text);
    }
    for step in &workload.explanation.steps {
        line(step.topic.as_str(), &step.text);
    }
    for warning in workload.warnings() {
        line("warning", &warning);
    }
    if let Err(denial) = &workload.explanation.result {
        line("denied", &denial.to_string());
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Formats the outcome. The parentheses contain the source of the injection, such as a label of the Namespace, or the
/// reason for skipping or denying the Pod.
fn outcome_text(workload: &WorkloadOutcome) -> String {
    match &workload.explanation.result {
        Ok(Outcome::Injected(injection)) => {
            format!("injected ({}), mesh {}", injection.source, injection.mesh)
        }
        Ok(Outcome::Skipped(reason)) => format!("skipped ({reason})"),
        Err(denial) => format!("denied ({})", denial.reason()),
    }
}
