//! The tests, in their order of execution.

mod admission;
mod bad_start;
mod balancing;
mod certificate;
mod dataplane;
mod encryption;
mod endpoint_removal;
mod high_availability;
mod identity;
mod injection;
mod install;
mod job;
mod manual_page;
mod mesh;
mod modes;
mod observability;
mod outage;
mod outside;
mod patches;
mod permission;
mod replicas;
mod without_sidecar;

use crate::harness::runner::Test;

macro_rules! tests {
    ($($subject:ident :: $name:ident),* $(,)?) => {
        vec![$(Test::new(
            concat!(stringify!($subject), "::", stringify!($name)),
            |world| Box::pin($subject::$name(world)),
        )),*]
    };
}

/// Returns all tests.
pub(crate) fn all() -> Vec<Test> {
    let mut all = installation();
    all.extend(application());
    all.extend(faults());
    all.extend(removal());
    all
}

/// Tests of a cluster without the application, before and after the installation.
fn installation() -> Vec<Test> {
    tests![
        bad_start::unreadable_configuration_file_is_named,
        bad_start::unknown_setting_is_named,
        bad_start::missing_custom_resource_definitions_are_named,
        install::control_plane_is_ready_after_applying_the_manifests,
        install::custom_resources_are_served,
        install::access_rights_are_minimal,
        install::webhooks_fail_closed_for_labelled_objects_and_open_for_others,
        install::default_mesh_is_created,
        bad_start::missing_permission_is_named,
        bad_start::occupied_port_is_named,
        certificate::missing_or_wrong_ca_bundle_is_restored,
        certificate::deleted_ca_secret_is_restored,
        outage::control_plane_restart_rejects_no_pod,
    ]
}

/// Tests of the application with one replica of the control plane.
fn application() -> Vec<Test> {
    tests![
        injection::pods_get_a_sidecar_unless_they_opt_out,
        injection::application_containers_are_unchanged,
        dataplane::every_injected_pod_has_a_dataplane_and_no_other_pod,
        dataplane::unready_pod_is_marked_and_gets_no_traffic,
        dataplane::dataplane_is_deleted_with_its_pod,
        dataplane::dataplane_that_cannot_be_generated_is_kept_and_an_event_names_the_reason,
        manual_page::example_of_the_manual_page_gives_its_dataplane,
        balancing::client_sidecar_balances_requests_over_all_replicas,
        encryption::sidecars_use_mtls_and_the_server_sees_the_client_identity,
        encryption::traffic_between_pods_is_encrypted,
        without_sidecar::pod_outside_the_mesh_is_rejected,
        without_sidecar::pod_that_opted_out_is_rejected,
        // After the tests of `without_sidecar`: during this test, Pods without a sidecar get responses.
        encryption::capture_without_mtls_shows_plain_text,
        mesh::invalid_resources_are_rejected_with_field_and_remedy,
        mesh::status_shows_the_mtls_mode_and_counts,
        mesh::initial_permission_allows_everything_and_stays_deleted,
        mesh::without_passthrough_no_traffic_leaves_the_mesh,
        permission::client_without_permission_is_rejected_by_the_server_sidecar,
        job::job_uses_the_mesh_in_its_init_container_and_completes,
        admission::invalid_injection_label_is_rejected_with_key_and_value,
        admission::unknown_mesh_is_rejected_by_name,
        modes::classic_sidecar_is_ready_before_the_application_starts,
        patches::example_of_the_manual_page_gives_its_result,
        patches::missing_patch_rejects_the_pod_and_is_named,
        patches::patch_outside_the_system_namespace_or_without_json_is_rejected,
        patches::sidecar_needs_only_net_bind_service,
        patches::restricted_pods_pass_pod_security_admission,
        replicas::traffic_follows_added_replicas,
        replicas::traffic_follows_removed_replicas,
        replicas::traffic_follows_a_rollout_restart,
        replicas::traffic_follows_the_replacement_of_a_deleted_pod,
        identity::proxies_with_a_false_identity_get_no_certificate,
        identity::ca_rotation_fails_no_request,
        observability::debug_endpoints_are_reachable_only_by_port_forward,
        observability::every_stage_has_metrics,
    ]
}

/// Tests of three replicas of the control plane, with one fault after the other.
fn faults() -> Vec<Test> {
    tests![
        high_availability::added_replicas_get_their_share_of_sidecars,
        endpoint_removal::removal_is_complete_when_the_proxies_of_all_replicas_have_acknowledged_it,
        high_availability::no_request_fails_when_replicas_are_killed_one_by_one_and_all_at_once,
        high_availability::lease_from_the_far_future_does_not_block_the_election,
        high_availability::dead_connections_to_the_api_server_are_detected,
        high_availability::no_request_fails_while_the_api_server_is_away,
        high_availability::no_request_fails_while_etcd_is_away,
        high_availability::crashed_envoy_recovers_without_a_control_plane,
    ]
}

/// Tests that stop the control plane or remove it.
fn removal() -> Vec<Test> {
    tests![
        outage::pods_of_labelled_namespaces_are_rejected_and_others_start_while_the_control_plane_is_down,
        outage::uninstallation_removes_everything,
        outside::control_plane_outside_the_cluster_serves_it,
    ]
}
