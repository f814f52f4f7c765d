//! The list of tests, in their order of execution. Each module contains the tests of one subject.

mod acknowledged_drain;
mod admission;
mod applications;
mod balancing;
mod book;
mod certificate;
mod check;
mod cni;
mod cni_starts;
mod crashes;
mod dashboards;
mod dataplane;
mod direct_access;
mod dns;
mod encryption;
mod endpoint_removal;
mod explain;
mod failed_start;
mod finished_jobs;
mod high_availability;
mod identity;
mod init_containers;
mod injection;
mod inner_network;
mod inspect;
mod install;
mod job;
mod kubelet_restart;
mod kuma_manual;
mod leaving;
mod lifecycle;
mod mesh;
mod modes;
mod observability;
mod outage;
mod outside;
mod patches;
mod permission;
mod probes;
mod server_changes;
mod without_sidecar;

use crate::harness::runner::Test;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$(Test::new(
            concat!(stringify!($module), "::", stringify!($name)),
            |fixture| Box::pin($module::$name(fixture)),
        )),*]
    };
}

/// Returns all tests in their order of execution on each cluster.
pub(crate) fn all() -> Vec<Test> {
    let mut all = installation_tests();
    all.extend(command_tests());
    all.extend(application_tests());
    all.extend(long_application_tests().into_iter().map(Test::long));
    let mut faults = fault_tests();
    faults.extend(long_fault_tests().into_iter().map(Test::long));
    faults.extend(uninstallation_tests());
    faults.extend(long_uninstallation_tests().into_iter().map(Test::long));
    all.extend(faults.into_iter().map(|test| test.on("e2e-faults")));
    all
}

/// Tests before and after the installation of the control plane, without the application.
fn installation_tests() -> Vec<Test> {
    tests![
        check::cluster_before_an_installation_passes_all_checks,
        failed_start::unreadable_configuration_file_is_named_in_the_error,
        failed_start::unknown_setting_is_named_in_the_error,
        failed_start::missing_custom_resource_definitions_are_named_in_the_error,
        install::control_plane_is_ready_after_applying_the_manifests,
        install::custom_resources_are_served,
        install::access_rights_have_no_wildcard_and_allow_only_expected_requests,
        install::failure_policy_is_fail_for_labelled_objects_and_ignore_for_others,
        install::default_mesh_is_created,
        failed_start::missing_permission_is_named_in_the_error,
        failed_start::occupied_port_is_named_in_the_error,
        certificate::missing_or_wrong_ca_bundle_is_restored,
        certificate::deleted_ca_secret_is_restored,
        outage::no_pod_is_denied_while_the_control_plane_restarts,
    ]
}

/// Tests of the commands of kumactl that read from a cluster with the application.
fn command_tests() -> Vec<Test> {
    tests![
        explain::pods_of_the_application_are_explained_without_a_problem,
        explain::dataplanes_are_listed_with_the_state_of_their_sidecars,
        explain::problems_of_pods_and_of_a_deployment_are_explained,
        check::mesh_without_a_fault_passes_all_checks,
        check::sidecars_of_the_application_do_not_differ_from_new_ones,
        check::faults_are_found_until_they_are_mended,
        inspect::sidecar_is_inspected_through_a_port_forward,
        inspect::sidecar_that_cannot_be_inspected_is_an_error_that_names_the_reason,
    ]
}

/// Tests of the application with one replica of the control plane.
fn application_tests() -> Vec<Test> {
    tests![
        injection::pods_get_a_sidecar_unless_they_opt_out,
        injection::application_containers_are_unchanged,
        injection::sidecars_are_classic_while_a_node_has_an_old_kubelet,
        dataplane::exactly_the_injected_pods_have_dataplanes,
        dataplane::unready_pod_has_an_unready_dataplane_and_gets_no_requests,
        dataplane::dataplane_is_deleted_with_its_pod,
        dataplane::invalid_annotation_is_named_in_an_event_and_does_not_change_the_dataplane,
        kuma_manual::example_pod_gets_the_documented_dataplane,
        balancing::client_sidecar_balances_requests_over_all_servers,
        balancing::endpoint_of_a_service_without_selector_is_called_with_mtls,
        direct_access::every_pod_is_called_by_its_ip_and_only_called_pods_have_clusters,
        direct_access::every_protocol_reaches_pods_by_ip_and_headless_name_unless_a_permission_denies_it,
        dns::names_of_services_and_pods_resolve_and_lead_to_them_with_mtls,
        balancing::client_stays_at_one_server_with_session_affinity,
        balancing::service_with_local_traffic_policy_calls_only_servers_of_the_clients_node,
        balancing::service_with_traffic_distribution_calls_only_servers_of_the_clients_zone,
        encryption::sidecars_use_mtls_and_the_server_sees_the_client_identity,
        encryption::traffic_between_pods_is_encrypted,
        without_sidecar::pod_outside_the_mesh_gets_no_response,
        without_sidecar::pod_that_opted_out_gets_no_response,
        without_sidecar::service_of_a_namespace_without_injection_responds_to_a_pod_of_the_mesh,
        without_sidecar::port_that_no_service_names_gives_no_response_to_a_pod_outside_the_mesh,
        without_sidecar::host_port_that_no_service_names_responds_to_clients_outside_the_mesh_only_if_excluded,
        // This test turns mTLS off and on again, so it follows the tests of `without_sidecar`, which rely on mTLS.
        encryption::capture_without_mtls_shows_plain_text,
        mesh::denial_of_an_invalid_resource_names_the_field_and_the_remedy,
        mesh::status_shows_mtls_mode_and_numbers_of_dataplanes_and_services,
        mesh::initial_permission_allows_all_traffic_and_is_not_recreated_after_its_deletion,
        mesh::requests_that_leave_the_mesh_fail_without_passthrough,
        mesh::pods_of_a_mesh_that_was_deleted_and_created_again_talk_under_its_new_ca,
        permission::server_sidecar_responds_403_to_a_client_without_permission_and_says_why,
        leaving::native_sidecar_drains_while_the_application_runs_and_ends_with_it,
        job::job_uses_the_mesh_in_its_init_container_and_completes,
        finished_jobs::classic_sidecar_ends_when_the_application_of_its_job_has_ended_for_good,
        init_containers::annotations_let_init_containers_of_a_uid_use_https_and_dns_without_the_sidecar,
        admission::denial_of_an_invalid_injection_label_names_key_and_value,
        admission::denial_of_an_unknown_mesh_names_the_mesh,
        inner_network::inner_container_reaches_the_outside_and_with_an_annotation_also_the_mesh,
        modes::classic_sidecar_is_ready_before_the_application_starts,
        patches::documented_patch_changes_sidecar_and_init_container,
        patches::denial_of_a_pod_names_missing_patches,
        patches::patch_outside_the_system_namespace_or_with_invalid_json_is_denied,
        patches::sidecar_needs_only_the_capability_net_bind_service,
        patches::restricted_pods_pass_pod_security_admission,
        probes::probes_and_hooks_of_every_protocol_work_under_strict,
        probes::failing_probe_of_every_protocol_keeps_its_container_unready,
        probes::applications_on_ports_of_the_sidecar_become_ready,
        probes::start_of_a_sidecar_causes_no_event_about_a_failed_probe,
        applications::redis_and_mariadb_serve_clients_of_the_mesh_only,
        server_changes::added_pods_get_requests,
        server_changes::removed_pods_get_no_requests,
        server_changes::only_new_pods_get_requests_after_a_rollout_restart,
        server_changes::replacement_of_a_deleted_pod_gets_requests,
        lifecycle::no_request_fails_while_servers_that_exit_at_once_are_restarted,
        identity::proxies_with_a_false_identity_get_no_certificate,
        // These two tests precede `ca_rotation_fails_no_request`, which leaves certificates that are valid for a minute
        // only. They would expire before the kubelet has updated the file with the new CA.
        certificate::running_sidecars_follow_a_new_ca_of_the_control_plane,
        certificate::rotation_of_the_control_planes_ca_fails_no_request,
        identity::ca_rotation_fails_no_request,
        observability::debug_endpoints_are_reachable_only_by_port_forward,
        observability::page_shows_the_application_by_port_forward,
        observability::every_stage_has_metrics,
        // The book starts rotations of both CAs, and installs three replicas.
        book::commands_of_the_book_succeed,
    ]
}

/// Long tests of the application with one replica of the control plane.
fn long_application_tests() -> Vec<Test> {
    tests![
        admission::pods_are_admitted_while_other_pods_hold_all_connections_to_the_webhook,
        applications::redis_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load,
        applications::mariadb_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load,
        applications::postgres_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load,
        applications::etcd_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load,
        applications::nginx_and_a_proxy_in_front_of_it_lose_no_request_when_they_restart_under_load,
        applications::prometheus_scrapes_every_pod_by_its_ip_under_strict,
        dashboards::prometheus_has_series_for_every_expression_and_loads_the_rules,
    ]
}

/// Long tests with three replicas of the control plane.
fn long_fault_tests() -> Vec<Test> {
    tests![
        certificate::rotation_with_three_replicas_changes_each_ca_bundle_twice,
        acknowledged_drain::pod_without_connections_ends_with_its_application_unless_a_replica_hangs,
        kubelet_restart::no_request_fails_while_the_kubelet_and_containerd_restart,
    ]
}

/// Tests of replicas and faults, with three replicas of the control plane.
fn fault_tests() -> Vec<Test> {
    tests![
        high_availability::added_replicas_get_their_share_of_sidecars,
        endpoint_removal::removal_is_complete_when_the_proxies_of_all_replicas_have_acknowledged_it,
        high_availability::no_request_fails_when_replicas_are_killed_one_by_one_and_all_at_once,
        high_availability::lease_from_the_far_future_does_not_block_the_election,
        high_availability::dead_connections_to_the_api_server_are_detected,
        high_availability::no_request_fails_while_the_api_server_is_down,
        high_availability::no_request_fails_while_etcd_is_down,
        high_availability::crashed_envoy_recovers_without_a_control_plane,
        crashes::killed_sidecar_is_restarted_and_serves_while_its_application_runs_on,
        crashes::sidecar_that_exceeds_its_memory_limit_is_restarted_and_serves,
    ]
}

/// Tests that stop the control plane, uninstall it, or run it outside of the cluster.
fn uninstallation_tests() -> Vec<Test> {
    tests![
        outage::only_pods_of_labelled_namespaces_are_denied_while_the_control_plane_is_down,
        outage::uninstallation_removes_everything,
        cni::pods_without_privileges_are_redirected_before_and_after_the_installer_starts,
        // Its Pods start after the removal of the CNI plugin, so the removal must leave the network as it was.
        outside::application_works_with_a_control_plane_outside_the_cluster,
    ]
}

/// Long tests that install the control plane themselves.
fn long_uninstallation_tests() -> Vec<Test> {
    tests![cni_starts::pods_send_no_plain_text_whenever_they_start]
}
