//! Networks of the pods of this node, as the container runtime has recorded them.
//!
//! The library of the CNI specification, which container runtimes use, writes a file with the result of ADD for each
//! network of a pod. The file exists before the first container of the pod starts. The status of the pod has the same
//! addresses, but the kubelet may report the status seconds later.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

/// Largest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;
/// Largest number of files that are read. A node has some hundred pods, but a container runtime may leave files behind.
const MAX_FILES: usize = 10_000;
/// Interface whose addresses the kubelet reports. Other interfaces belong to further networks of the pod.
const INTERFACE: &str = "eth0";

/// A pod's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// File of the network namespace.
    pub(super) namespace: PathBuf,
    /// Addresses of the pod.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// The networks of all pods.
pub(super) struct Sandboxes {
    /// Folder of the library's files.
    results: PathBuf,
    /// Folder with the network namespaces of pods.
    namespaces: PathBuf,
    /// Files that were read.
    files: HashMap<PathBuf, Record>,
    /// Networks of each pod by its UID, the newest first.
    pods: HashMap<String, Vec<Sandbox>>,
    /// Whether the container runtime writes files that name the network namespaces of pods.
    are_recorded: bool,
}

/// A file that was read.
struct Record {
    version: Version,
    /// UID of the pod and its network; `None` if the file describes no network of a pod, or cannot be used.
    content: Option<(String, Sandbox)>,
}

/// Reason for which a file cannot be used. It may be incomplete, while the container runtime writes it.
#[derive(Debug, thiserror::Error)]
enum UnusableFile {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is not a result of a CNI plugin: {0}")]
    Json(#[from] serde_json::Error),
    #[error("names no network namespace")]
    WithoutNamespace,
    #[error("has no IP address")]
    WithoutAddress,
}

/// Size and time of the last change of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    size: u64,
    changed: Option<SystemTime>,
}

/// The used fields of a file. Newer versions of the library have `netns`, and older ones only the interfaces.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedResult {
    if_name: String,
    #[serde(default)]
    netns: Option<PathBuf>,
    cni_args: Vec<(String, String)>,
    result: NetworkResult,
}

#[derive(Deserialize)]
struct NetworkResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Address {
    /// Address and length of the network's prefix.
    address: String,
}

// === impl Sandboxes ===

impl Sandboxes {
    /// Uses the files in the folder `results`, and the network namespaces in the folder `namespaces`.
    pub(super) fn new(results: PathBuf, namespaces: PathBuf) -> Self {
        Self {
            results,
            namespaces,
            files: HashMap::new(),
            pods: HashMap::new(),
            are_recorded: false,
        }
    }

    /// Returns the folder with the network namespaces.
    pub(super) fn namespaces(&self) -> &Path {
        &self.namespaces
    }

    /// Reads the regular files that are new or have changed. A container runtime that writes no such files, or writes them to
    /// another folder, leaves the list empty.
    pub(super) fn refresh(&mut self) {
        let mut files = HashMap::new();
        let entries = fs::read_dir(&self.results).into_iter().flatten().flatten();
        for entry in entries.take(MAX_FILES) {
            // Only regular files are read: a pipe would block.
            let Some(metadata) = entry.metadata().ok().filter(Metadata::is_file) else {
                continue;
            };
            let version = Version {
                size: metadata.len(),
                changed: metadata.modified().ok(),
            };
            let path = entry.path();
            let known = self
                .files
                .remove(&path)
                .filter(|record| record.version == version);
            let record = known.unwrap_or_else(|| Record::read(&path, version));
            files.insert(path, record);
        }
        self.files = files;
        self.index();
    }

    fn index(&mut self) {
        // A pod has a file for each of its sandboxes. The folder has no order, so files of the same time are sorted by name.
        let mut records: Vec<(&PathBuf, &Record)> = self.files.iter().collect();
        records.sort_unstable_by_key(|(path, record)| Reverse((record.version.changed, *path)));
        self.pods.clear();
        for (_, record) in records {
            if let Some((uid, sandbox)) = &record.content {
                self.pods.entry(uid.clone()).or_default().push(sandbox.clone());
            }
        }
        self.are_recorded |= !self.pods.is_empty();
    }

    /// Whether the container runtime records the network of each pod, so that a pod without a record has no network yet.
    pub(super) fn are_recorded(&self) -> bool {
        self.are_recorded
    }

    /// Returns the newest network of a pod whose network namespace exists. The file of a former network remains after a
    /// reboot, and until the container runtime has removed the former sandbox of a pod.
    pub(super) fn get(&self, uid: &str) -> Option<Sandbox> {
        self.pods.get(uid)?.iter().find_map(|sandbox| {
            let namespace = self.namespaces.join(sandbox.namespace.file_name()?);
            let addresses = sandbox.addresses.clone();
            namespace.exists().then_some(Sandbox { namespace, addresses })
        })
    }
}

// === impl Record ===

impl Record {
    fn read(path: &Path, version: Version) -> Self {
        let content = read(path).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), "record of a network not used: the file {error}");
            None
        });
        Self { version, content }
    }
}

fn read(path: &Path) -> Result<Option<(String, Sandbox)>, UnusableFile> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SIZE).read_to_string(&mut text)?;
    parse(&text)
}

/// Returns the UID of the pod and its network; `None` for a network of another container than a pod, and for a further
/// network of a pod.
fn parse(text: &str) -> Result<Option<(String, Sandbox)>, UnusableFile> {
    let file: CachedResult = serde_json::from_str(text)?;
    let uid = file.cni_args.into_iter().find(|(key, _)| key == "K8S_POD_UID");
    let Some((_, uid)) = uid.filter(|_| file.if_name == INTERFACE) else {
        return Ok(None);
    };
    let sandboxes = file.result.interfaces.into_iter();
    let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
    let namespace = file
        .netns
        .filter(is_set)
        .or_else(|| sandboxes.filter_map(|interface| interface.sandbox).find(is_set))
        .ok_or(UnusableFile::WithoutNamespace)?;
    let addresses: BTreeSet<IpAddr> = file
        .result
        .ips
        .iter()
        .filter_map(|ip| ip.address.split('/').next()?.parse().ok())
        .collect();
    if addresses.is_empty() {
        return Err(UnusableFile::WithoutAddress);
    }
    Ok(Some((uid, Sandbox { namespace, addresses })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn mk_file(change: impl FnOnce(&mut Value)) -> String {
        // The file of containerd 1.6 for the plugin `bridge`, without the configuration.
        let mut file = json!({
            "kind": "cniCacheV1", "containerId": "c1", "config": "e30=", "ifName": "eth0", "networkName": "pods",
            "cniArgs": [
                ["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "cart-1"],
                ["K8S_POD_INFRA_CONTAINER_ID", "c1"], ["K8S_POD_UID", "uid-1"],
            ],
            "result": {
                "cniVersion": "1.0.0", "dns": {},
                "interfaces": [
                    {"name": "cni0", "mac": "02:00:00:00:00:01"}, {"name": "veth1", "mac": "02:00:00:00:00:02"},
                    {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1"},
                ],
                "ips": [
                    {"interface": 2, "address": "10.1.1.2/24", "gateway": "10.1.1.1"},
                    {"interface": 2, "address": "fd01::2/64"},
                ],
            },
        });
        change(&mut file);
        file.to_string()
    }

    #[test]
    fn file_names_pod_namespace_and_addresses() {
        let (uid, sandbox) = network(&mk_file(|_| {}));
        assert_eq!(uid, "uid-1");
        assert_eq!(sandbox.namespace, Path::new("/var/run/netns/cni-1"));
        let addresses = ["10.1.1.2", "fd01::2"].map(|text| text.parse().expect("an address"));
        assert_eq!(sandbox.addresses, BTreeSet::from(addresses));
        let with_member = mk_file(|file| file["netns"] = "/run/netns/cni-2".into());
        let (_, sandbox) = network(&with_member);
        assert_eq!(sandbox.namespace, Path::new("/run/netns/cni-2"));
    }

    fn network(text: &str) -> (String, Sandbox) {
        parse(text).expect("a usable file").expect("a network of a pod")
    }

    #[test]
    fn file_without_a_pods_first_network_is_ignored() {
        for (reason, text) in [
            (
                "a further network",
                mk_file(|file| file["ifName"] = "net1".into()),
            ),
            ("no pod", mk_file(|file| file["cniArgs"] = json!([]))),
        ] {
            assert_eq!(parse(&text).expect("a usable file"), None, "{reason}");
        }
    }

    #[test]
    fn file_that_cannot_be_used_gives_a_reason() {
        for (reason, text) in [
            ("not a result", mk_file(|_| {})[..100].to_owned()),
            (
                "names no network namespace",
                mk_file(|file| file["result"]["interfaces"] = json!([])),
            ),
            (
                "has no IP address",
                mk_file(|file| file["result"]["ips"] = json!([])),
            ),
        ] {
            let error = parse(&text).expect_err(reason).to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn newest_of_the_existing_networks_of_a_pod_is_used() {
        let (results, namespaces) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        // Several pods, because a single choice may be right by chance.
        for pod in 0..8 {
            for age in 0..4_u64 {
                let name = format!("cni-{pod}-{age}");
                let content = mk_file(|file| {
                    file["cniArgs"] = json!([["K8S_POD_UID", format!("uid-{pod}")]]);
                    file["netns"] = format!("/run/netns/{name}").into();
                });
                let file = results.path().join(&name);
                fs::write(&file, content).expect("a file");
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
                let file = File::options().write(true).open(&file).expect("a file");
                file.set_modified(time).expect("a time");
                // The newest network has ended.
                if age > 0 {
                    fs::write(namespaces.path().join(&name), "").expect("a file");
                }
            }
        }
        let mut sandboxes = Sandboxes::new(results.path().to_owned(), namespaces.path().to_owned());
        assert!(!sandboxes.are_recorded());
        sandboxes.refresh();
        assert!(sandboxes.are_recorded());
        for pod in 0..8 {
            let sandbox = sandboxes.get(&format!("uid-{pod}")).expect("a network");
            let newest = namespaces.path().join(format!("cni-{pod}-1"));
            assert_eq!(sandbox.namespace, newest);
        }
    }

    #[test]
    fn entries_of_the_folder_that_are_no_regular_files_are_ignored() {
        let (results, namespaces) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        nix::unistd::mkfifo(&results.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        fs::create_dir(results.path().join("folder")).expect("a folder");
        let outside = namespaces.path().join("outside");
        fs::write(&outside, mk_file(|_| {})).expect("a file");
        std::os::unix::fs::symlink(&outside, results.path().join("link")).expect("a link");
        let mut sandboxes = Sandboxes::new(results.path().to_owned(), namespaces.path().to_owned());
        sandboxes.refresh();
        assert!(!sandboxes.are_recorded());
    }

    #[test]
    fn network_is_known_while_its_file_and_its_namespace_exist() {
        let (results, namespaces) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let mut sandboxes = Sandboxes::new(results.path().to_owned(), namespaces.path().to_owned());
        let file = results.path().join("pods-c1-eth0");
        fs::write(&file, &mk_file(|_| {})[..100]).expect("a file");
        sandboxes.refresh();
        assert_eq!(sandboxes.get("uid-1"), None, "the file is not complete");
        fs::write(&file, mk_file(|_| {})).expect("a file");
        sandboxes.refresh();
        assert_eq!(sandboxes.get("uid-1"), None, "the namespace of a former boot");
        let namespace = namespaces.path().join("cni-1");
        fs::write(&namespace, "").expect("a file");
        assert_eq!(
            sandboxes.get("uid-1").map(|sandbox| sandbox.namespace),
            Some(namespace)
        );
        assert_eq!(sandboxes.get("uid-2"), None);
        fs::remove_file(&file).expect("a file");
        sandboxes.refresh();
        assert_eq!(
            sandboxes.get("uid-1"),
            None,
            "the runtime has deleted the network"
        );
    }
}
