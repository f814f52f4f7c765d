//! Validation of Meshes.

use std::collections::HashSet;

use kermode_model as model;
use serde::Deserialize;
use serde_json::Value;

use super::Problem;
use crate::mesh::{Backend, Mesh, certificate_lifetime, check_backend_name, mode};

/// Returns the problems of a Mesh. Backends that are not enabled may have an unsupported type.
pub fn mesh(object: &Value) -> Vec<Problem> {
    let mesh = match Mesh::deserialize(object) {
        Ok(mesh) => mesh,
        Err(error) => return vec![Problem::new("spec", error.to_string())],
    };
    let mut problems = Vec::new();
    if let Err(error) = model::Mesh::try_from(&mesh) {
        problems.push(error.problem());
    }
    let backends = mesh.spec.mtls.as_ref().map_or(&[][..], |mtls| &mtls.backends);
    let mut names = HashSet::new();
    for (index, backend) in backends.iter().enumerate() {
        let field = format!("spec.mtls.backends[{index}].name");
        if backend.name.is_empty() {
            problems.push(Problem::new(field, "cannot be empty"));
        } else if !names.insert(backend.name.as_str()) {
            let message = format!("{:?} name is already used for another backend", backend.name);
            problems.push(Problem::new(field, message));
        }
        for problem in check_backend(index, backend) {
            // The conversion to the model may have reported the same problem of the enabled backend.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
}

/// Returns the problems of a backend, except an empty name, which the caller reports.
fn check_backend(index: usize, backend: &Backend) -> impl Iterator<Item = Problem> {
    let name_error = check_backend_name(index, backend)
        .err()
        .filter(|_| !backend.name.is_empty());
    let mode_error = mode(index, backend).err();
    let lifetime_error = certificate_lifetime(index, backend).err();
    let errors = name_error.into_iter().chain(mode_error).chain(lifetime_error);
    errors.map(|error| error.problem())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(mtls: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "default"}, "spec": {"mtls": mtls}});
        mesh(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn valid_mesh_may_have_unsupported_backends() {
        let backends =
            json!([{"name": "ca-1", "type": "builtin"}, {"name": "old", "type": "vault", "conf": {}}]);
        assert_eq!(
            problems(json!({"enabledBackend": "ca-1", "backends": backends})),
            [""; 0]
        );
    }

    #[test]
    fn each_problem_is_reported_once() {
        let backends = json!([
            {"name": "ca-1", "type": "builtin", "mode": "LAX"},
            {"name": "ca-1", "type": "builtin", "dpCert": {"rotation": {"expiration": "soon"}}},
            {"name": "", "type": "builtin"},
        ]);
        let problems = problems(json!({"enabledBackend": "ca-1", "backends": backends}));
        assert_eq!(
            problems[0],
            "spec.mtls.backends[0].mode: \"LAX\" is unknown: use STRICT or PERMISSIVE"
        );
        assert_eq!(
            problems[1],
            "spec.mtls.backends[1].name: \"ca-1\" name is already used for another backend"
        );
        assert!(problems[2].starts_with("spec.mtls.backends[1].dpCert.rotation.expiration: "));
        assert_eq!(problems[3], "spec.mtls.backends[2].name: cannot be empty");
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn enabled_backend_must_exist_and_be_builtin() {
        assert_eq!(
            problems(json!({"enabledBackend": "ca-2"})),
            ["spec.mtls.enabledBackend: has to be set to one of the backends in the mesh, not \"ca-2\""]
        );
        let vault = json!([{"name": "v", "type": "vault"}]);
        assert_eq!(
            problems(json!({"enabledBackend": "v", "backends": vault})),
            ["spec.mtls.backends[0].type: \"vault\" is not supported: use builtin"]
        );
    }

    #[test]
    fn names_of_meshes_and_builtin_backends_must_be_dns_labels() {
        let rule = "must be a DNS label: at most 63 lower-case letters, digits and dashes, neither starting nor \
                    ending with a dash";
        let problems_of_name = |name: &str| {
            let problems = mesh(&json!({"metadata": {"name": name}, "spec": {}}));
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(problems_of_name("team-1"), [""; 0]);
        assert_eq!(
            problems_of_name("team.one"),
            [format!("metadata.name: \"team.one\" {rule}")]
        );
        let backends = json!([{"name": "CA_1", "type": "builtin"}, {"name": "Old_CA", "type": "vault"}]);
        assert_eq!(
            problems(json!({"enabledBackend": "CA_1", "backends": backends})),
            [format!("spec.mtls.backends[0].name: \"CA_1\" {rule}")],
            "one problem: the name of a backend of another type is not restricted"
        );
    }

    #[test]
    fn malformed_spec_gives_one_problem() {
        assert_eq!(mesh(&json!({"spec": {"mtls": 1}})).len(), 1);
    }
}
