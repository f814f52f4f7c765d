//! Tests of the supervisor with a second process that changes the node's folders.

use std::fs;
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

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
        let kept = keep_installed(&mut installer, &ONLY_WATCHES, || Ok(()), report, shutdown).await;
        kept.expect("a watch");
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
    .await
    .expect("a watch");
    assert_eq!(reasons, ["KernelUnsupported"]);
    let text = fs::read_to_string(folder.path().join("networks/10-net.conflist")).expect("a file");
    assert_eq!(text, LIST);
}
