//! Tests of the supervisor with a second process that changes the node's folders.

use std::fs;
use std::path::Path;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::*;
use crate::installer::Settings;

const LIST: &str = r#"{"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "ptp"}]}"#;

/// Intervals that are longer than any test.
const ONLY_WATCHES: Intervals = Intervals {
    recheck: Duration::from_hours(1),
    retry: Duration::from_hours(1),
    settle: Duration::from_millis(1),
    grace: Duration::ZERO,
};

fn mk_installer(node: &Path) -> Installer {
    for folder in ["networks", "programs", "credentials"] {
        fs::create_dir_all(node.join(folder)).expect("a folder");
    }
    for (file, content) in [
        ("program", "program"),
        ("credentials/token", "1"),
        ("credentials/ca.crt", "r"),
        ("programs/ptp", "plugin"),
    ] {
        fs::write(node.join(file), content).expect("a file");
    }
    Installer::new(Settings {
        node: node.to_owned(),
        network_folder: "/networks".into(),
        program_folder: "/programs".into(),
        network_name: None,
        is_chained: true,
        program: node.join("program"),
        tools: None,
        credentials: node.join("credentials"),
        api_server: "https://192.0.2.1".to_owned(),
        excluded_namespaces: Vec::new(),
    })
}

#[tokio::test]
async fn changes_of_other_processes_are_noticed_and_repaired_without_polling() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().to_owned();
    let mut installer = mk_installer(&node);
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let supervisor = tokio::spawn(async move {
        let report = |result: &Result<Vec<String>, Problem>| {
            let _ = reports.send(result.as_ref().map_err(Problem::reason).cloned());
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        keep_installed(&mut installer, &ONLY_WATCHES, || Ok(()), report, shutdown).await;
        remove(&mut installer, &ONLY_WATCHES).await.expect("a removal");
    });
    assert_eq!(reported.recv().await, Some(Err("NetworkConfigurationMissing")));
    let list = node.join("networks/10-net.conflist");
    let has_entry = || fs::read_to_string(&list).is_ok_and(|text| crate::conflist::has_entry(&text));
    // The network plugin installs its configuration; later it rewrites the configuration in place, and by a rename.
    fs::write(&list, LIST).expect("a file");
    while !has_entry() {
        assert!(reported.recv().await.is_some());
    }
    fs::write(&list, LIST).expect("a file");
    while !has_entry() {
        assert!(reported.recv().await.is_some());
    }
    fs::write(node.join("networks/new"), LIST).expect("a file");
    fs::rename(node.join("networks/new"), &list).expect("a rename");
    while !has_entry() {
        assert!(reported.recv().await.is_some());
    }
    // The kubelet renews the token.
    fs::write(node.join("credentials/token"), "second-token").expect("a file");
    let kubeconfig = node.join("networks/ZZZ-kuma-cni-kubeconfig");
    while !fs::read_to_string(&kubeconfig).is_ok_and(|text| text.contains("second-token")) {
        assert!(reported.recv().await.is_some());
    }
    // Another process removes the program.
    fs::remove_file(node.join("programs/kuma-cni")).expect("a file");
    while !node.join("programs/kuma-cni").exists() {
        assert!(reported.recv().await.is_some());
    }
    stop.send(()).expect("the supervisor runs");
    supervisor.await.expect("the supervisor ends");
    assert!(!has_entry());
    assert!(!kubeconfig.exists() && !node.join("programs/kuma-cni").exists());
}

#[tokio::test]
async fn plugin_is_not_installed_while_the_kernel_lacks_support() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    fs::write(folder.path().join("networks/10-net.conflist"), LIST).expect("a file");
    let check = || Err(Problem::Kernel("nf_tables is missing".to_owned()));
    let mut reasons = Vec::new();
    let report = |result: &Result<Vec<String>, Problem>| {
        reasons.extend(result.as_ref().err().map(Problem::reason));
    };
    keep_installed(
        &mut installer,
        &ONLY_WATCHES,
        check,
        report,
        std::future::ready(()),
    )
    .await;
    assert_eq!(reasons, ["KernelUnsupported"]);
    let text = fs::read_to_string(folder.path().join("networks/10-net.conflist")).expect("a file");
    assert_eq!(text, LIST);
}

#[tokio::test]
async fn entry_of_an_earlier_process_is_removed_while_the_kernel_lacks_support() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("networks/10-net.conflist");
    let mut installer = mk_installer(folder.path());
    fs::write(&list, LIST).expect("a file");
    installer.install().expect("an installation");
    let has_entry = || crate::conflist::has_entry(&fs::read_to_string(&list).expect("a file"));
    assert!(has_entry());
    keep_installed(
        &mut mk_installer(folder.path()),
        &ONLY_WATCHES,
        || Err(Problem::Kernel("nf_tables is missing".to_owned())),
        |_| {},
        std::future::ready(()),
    )
    .await;
    assert!(!has_entry());
}

/// Runs the supervisor for a minute of the paused clock. Returns the number of reports.
async fn count_reports_of_a_minute(
    installer: &mut Installer,
    mut observe: impl FnMut(&Result<Vec<String>, Problem>),
) -> usize {
    let mut count = 0;
    let report = |result: &Result<Vec<String>, Problem>| {
        count += 1;
        observe(result);
    };
    let shutdown = sleep(Duration::from_mins(1));
    keep_installed(installer, &Intervals::default(), || Ok(()), report, shutdown).await;
    count
}

/// Bound of the reports in a minute: 8 until the pause has doubled from 20 ms to 5 s, then one every 5 s.
const MAX_REPORTS: usize = 25;

#[tokio::test(start_paused = true)]
async fn failing_write_in_a_watched_folder_is_repeated_with_growing_pauses() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    // The temporary file can be written, but no file replaces a folder.
    fs::create_dir(folder.path().join("programs/kuma-cni")).expect("a folder");
    let mut failures = 0;
    let count = count_reports_of_a_minute(&mut installer, |result| {
        failures += usize::from(result.is_err());
    })
    .await;
    assert_eq!(failures, count);
    assert!((10..=MAX_REPORTS).contains(&count), "{count} reports");
}

#[tokio::test(start_paused = true)]
async fn second_process_that_undoes_each_repair_at_once_gets_growing_pauses() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    let list = folder.path().join("networks/10-net.conflist");
    fs::write(&list, LIST).expect("a file");
    let count = count_reports_of_a_minute(&mut installer, |result| {
        assert!(result.is_ok(), "{result:?}");
        fs::write(&list, LIST).expect("a file");
    })
    .await;
    assert!((10..=MAX_REPORTS).contains(&count), "{count} reports");
}

#[tokio::test(start_paused = true)]
async fn second_process_that_undoes_each_repair_later_gets_growing_pauses() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    let list = folder.path().join("networks/10-net.conflist");
    fs::write(&list, LIST).expect("a file");
    let repaired = Notify::new();
    let second = async {
        loop {
            repaired.notified().await;
            sleep(Duration::from_millis(100)).await;
            fs::write(&list, LIST).expect("a file");
        }
    };
    let supervisor = count_reports_of_a_minute(&mut installer, |result| {
        if result.as_ref().is_ok_and(|changes| !changes.is_empty()) {
            repaired.notify_one();
        }
    });
    let count = tokio::select! {
        count = supervisor => count,
        () = second => 0,
    };
    // While the pause is shorter than 100 ms, a check follows the supervisor's own write, too.
    assert!((10..=2 * MAX_REPORTS).contains(&count), "{count} reports");
}

#[tokio::test(start_paused = true)]
async fn change_after_a_calm_time_is_repaired_after_the_shortest_pause() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    let list = folder.path().join("networks/10-net.conflist");
    let start = Instant::now();
    let mut repair_times = Vec::new();
    let report = |result: &Result<Vec<String>, Problem>| {
        if result.as_ref().is_ok_and(|changes| !changes.is_empty()) {
            repair_times.push(start.elapsed());
        }
    };
    let shutdown = async {
        // Without a network configuration, the checks of an hour fail.
        sleep(Duration::from_hours(1)).await;
        fs::write(&list, LIST).expect("a file");
        sleep(Duration::from_secs(1)).await;
    };
    keep_installed(&mut installer, &Intervals::default(), || Ok(()), report, shutdown).await;
    let repair = repair_times.last().expect("a repair");
    assert!(
        *repair < Duration::from_hours(1) + Duration::from_millis(100),
        "{repair:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn changes_are_repaired_by_regular_checks_if_the_kernel_has_no_capacity_for_a_watch() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut installer = mk_installer(folder.path());
    let list = folder.path().join("networks/10-net.conflist");
    let open = || Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
    let shutdown = async {
        sleep(Duration::from_secs(10)).await;
        fs::write(&list, LIST).expect("a file");
        sleep(Duration::from_mins(2)).await;
    };
    let intervals = Intervals::default();
    keep_installed_with(open, &mut installer, &intervals, || Ok(()), |_| {}, shutdown).await;
    assert!(crate::conflist::has_entry(
        &fs::read_to_string(&list).expect("a file")
    ));
}
