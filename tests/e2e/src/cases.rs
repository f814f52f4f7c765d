//! The tests, in the order in which they run.

mod bad_start;
mod balancing;
mod certificate;
mod dataplane;
mod departure;
mod encryption;
mod high_availability;
mod identity;
mod injection;
mod install;
mod job;
mod mesh;
mod modes;
mod observability;
mod outage;
mod outside;
mod page;
mod patches;
mod permission;
mod refusal;
mod replicas;
mod strangers;

use crate::harness::runner::Test;

/// All tests.
pub(crate) fn all() -> Vec<Test> {
    macro_rules! tests {
        ($($subject:ident :: $name:ident),* $(,)?) => {
            vec![$(Test::new(
                concat!(stringify!($subject), "::", stringify!($name)),
                |world| Box::pin($subject::$name(world)),
            )),*]
        };
    }
    tests![
        // Nothing is installed yet.
        bad_start::a_configuration_file_that_cannot_be_read_is_named,
        bad_start::a_setting_that_does_not_exist_is_named,
        bad_start::missing_custom_resource_definitions_are_named,
        install::applying_the_manifests_makes_the_control_plane_ready,
        install::the_custom_resources_are_served,
        install::access_rights_are_least,
        install::webhooks_fail_closed_for_what_is_labelled_and_open_for_the_rest,
        install::the_default_mesh_is_made,
        bad_start::a_missing_permission_is_named,
        bad_start::a_taken_port_is_named,
        certificate::a_ca_bundle_that_is_wiped_or_wrong_is_put_right,
        certificate::the_authority_s_secret_is_restored_when_it_is_deleted,
        outage::a_restart_of_the_control_plane_refuses_no_pod,
        // The application runs.
        injection::pods_get_a_sidecar_unless_they_opt_out,
        injection::the_application_is_unchanged,
        dataplane::every_injected_pod_has_one_and_nobody_else,
        dataplane::an_unready_pod_says_so_and_gets_no_traffic,
        dataplane::it_disappears_with_its_pod,
        dataplane::one_that_cannot_be_generated_stays_as_it_was_and_says_why,
        page::the_page_s_example_gives_the_page_s_dataplane,
        balancing::the_client_s_sidecar_spreads_requests_over_all_replicas,
        encryption::sidecars_shake_hands_and_the_server_knows_the_client,
        encryption::no_plain_text_crosses_between_pods,
        strangers::a_pod_outside_the_mesh_is_refused,
        strangers::a_pod_that_opted_out_is_refused,
        // Strangers get answers for as long as this one lasts.
        encryption::without_mtls_the_same_capture_sees_plain_text,
        mesh::what_people_get_wrong_is_refused_with_field_and_remedy,
        mesh::its_status_tells_what_is_in_force,
        mesh::its_first_permission_allows_everything_and_stays_deleted,
        mesh::without_passthrough_nothing_leaves_it,
        permission::a_client_without_permission_is_refused_by_the_server_s_sidecar,
        job::a_job_calls_from_its_init_container_and_completes,
        refusal::a_wrong_injection_label_is_refused_with_key_and_value,
        refusal::a_mesh_that_does_not_exist_is_refused_by_name,
        modes::a_classic_sidecar_is_ready_before_the_application_starts,
        patches::the_page_s_example_gives_the_page_s_result,
        patches::a_missing_patch_refuses_the_pod_and_names_it,
        patches::a_patch_outside_the_system_namespace_or_without_json_is_refused,
        patches::net_bind_service_is_all_the_sidecar_needs,
        patches::pods_of_the_restricted_profile_pass_kubernetes_own_admission,
        replicas::more_replicas_are_used,
        replicas::fewer_replicas_are_enough,
        replicas::a_restart_is_followed,
        replicas::a_deleted_pod_is_replaced,
        identity::proxies_that_want_to_be_somebody_else_get_no_certificate,
        identity::a_new_ca_replaces_the_old_one_without_a_failed_request,
        observability::debug_endpoints_are_reached_by_port_forward_alone,
        observability::metrics_tell_of_every_stage,
        // Three replicas, and one thing after the other is broken.
        high_availability::replicas_that_are_added_get_their_share_of_sidecars,
        departure::it_is_over_when_the_proxies_of_all_replicas_have_acknowledged_it,
        high_availability::no_request_fails_when_replicas_are_killed_one_by_one_and_all_at_once,
        high_availability::a_lease_from_the_far_future_blocks_nobody,
        high_availability::connections_to_the_api_server_that_lead_nowhere_are_noticed,
        high_availability::no_request_fails_while_the_api_server_is_away,
        high_availability::no_request_fails_while_etcd_is_away,
        high_availability::an_envoy_that_crashes_without_a_control_plane_serves_again,
        // The control plane goes away.
        outage::labelled_namespaces_wait_and_others_go_on_while_the_control_plane_is_down,
        outage::uninstalling_leaves_nothing_behind,
        outside::a_control_plane_outside_of_the_cluster_serves_it,
    ]
}
