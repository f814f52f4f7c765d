//! Installs the plugin on the node, repairs the installation, and removes it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use crate::conflist::{self, Edit, InvalidNetwork, PLUGIN};
use crate::credentials;
use crate::files;
use crate::network::{self, Network, NetworkFolder};
use crate::problem::Problem;

/// Name of the kubeconfig in the folder of network configurations, as in Kuma. Container runtimes skip the file, because
/// its name has no extension.
const KUBECONFIG: &str = "ZZZ-kuma-cni-kubeconfig";

/// Name of the plugin's own configuration, as in Kuma, if the plugin is not chained.
const OWN_NETWORK: &str = "kuma-cni.conf";

/// Mode of programs and libraries.
const PROGRAM_MODE: u32 = 0o755;

/// Number of attempts to change a file that another process changes at the same time.
const MAX_ATTEMPTS: usize = 20;

/// Files to install, and the folders of the node that receive them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder by which this process reaches the root of the node's file system.
    pub node: PathBuf,
    /// Folder of the node with network configurations.
    pub network_folder: PathBuf,
    /// Folder of the node with plugins.
    pub program_folder: PathBuf,
    /// Name of the configuration that the plugin is added to, or that the plugin gets if it is not chained. By default,
    /// the first valid configuration, or `kuma-cni.conf`.
    pub network_name: Option<String>,
    /// Whether the plugin is added to an existing configuration.
    pub is_chained: bool,
    /// The plugin's program.
    pub program: PathBuf,
    /// Folder with the program `nft` and its libraries. Without it, the plugin uses the node's `nft`.
    pub tools: Option<PathBuf>,
    /// Folder with the files `token` and `ca.crt` of this Pod's service account.
    pub credentials: PathBuf,
    /// URL of the API server.
    pub api_server: String,
    /// Namespaces whose Pods start without the plugin.
    pub excluded_namespaces: Vec<String>,
}

/// Installs the plugin on the node.
#[derive(Debug)]
pub struct Installer {
    settings: Settings,
    networks: NetworkFolder,
    /// Copied files, as they were after the last copy.
    copies: BTreeMap<PathBuf, Stamp>,
    /// Name of the folder with `nft`, in the folder of plugins.
    tools_name: Option<String>,
}

/// Identity of a file's content, with its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    mode: u32,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Installer {
    /// Prepares an installation.
    pub fn new(settings: Settings) -> Self {
        let networks = NetworkFolder {
            path: on_node(&settings.node, &settings.network_folder),
            node_path: settings.network_folder.clone(),
        };
        Self {
            settings,
            networks,
            copies: BTreeMap::new(),
            tools_name: None,
        }
    }

    /// Returns the folders whose changes require another call of [`Installer::install`].
    pub fn watched_folders(&self) -> Vec<PathBuf> {
        vec![
            self.networks.path.clone(),
            self.program_folder(),
            self.settings.credentials.clone(),
        ]
    }

    /// Installs the plugin, or repairs the installation. Returns a text for each change. The kubeconfig comes first, so
    /// that a problem of other files does not end the renewal of the token that a present entry needs. The entry in the
    /// network configuration comes last, so that a Pod that starts meanwhile needs nothing that is missing.
    ///
    /// # Errors
    /// If the plugin cannot be installed, or a chained plugin is missing. Files that are installed already stay.
    pub fn install(&mut self) -> Result<Vec<String>, Problem> {
        let mut changes = Vec::new();
        self.install_credentials(&mut changes)?;
        self.install_tools(&mut changes)?;
        self.install_program(&mut changes)?;
        if self.settings.is_chained {
            self.install_entry(&mut changes)?;
        } else {
            self.install_own_network(&mut changes)?;
        }
        // The entry no longer names the tools of an earlier version.
        self.remove_tools(self.tools_name.as_deref());
        if self.settings.is_chained {
            self.check_chained_programs().inspect_err(|_| {
                for change in &changes {
                    tracing::info!("{change}");
                }
            })?;
        }
        Ok(changes)
    }

    /// Removes the plugin from the network configurations. New Pods then start without the plugin.
    ///
    /// # Errors
    /// If a configuration cannot be changed.
    pub fn remove_entry(&mut self) -> Result<(), Problem> {
        if !self.settings.is_chained {
            return files::remove(&self.own_network_path());
        }
        for (saved, original) in network::saved_files(&self.networks.path) {
            restore(&saved, &original)?;
        }
        for name in self.networks.names().unwrap_or_default() {
            if name.ends_with(".conflist")
                && let Ok(path) = self.networks.resolve(&name)
            {
                remove_from_list(&path)?;
            }
        }
        Ok(())
    }

    /// Removes credentials and programs. The container runtime must not use the plugin any more.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove_files(&mut self) -> Result<(), Problem> {
        files::remove(&self.networks.path.join(KUBECONFIG))?;
        files::remove(&self.program_folder().join(PLUGIN))?;
        self.remove_tools(None);
        files::remove_temporary_files(&self.networks.path);
        files::remove_temporary_files(&self.program_folder());
        Ok(())
    }

    fn program_folder(&self) -> PathBuf {
        on_node(&self.settings.node, &self.settings.program_folder)
    }

    fn own_network_path(&self) -> PathBuf {
        let name = self.settings.network_name.as_deref().unwrap_or(OWN_NETWORK);
        self.networks.path.join(name)
    }

    fn install_program(&mut self, changes: &mut Vec<String>) -> Result<(), Problem> {
        let target = self.program_folder().join(PLUGIN);
        let source = self.settings.program.clone();
        self.copy(&source, &target, changes)
    }

    /// Copies a program, unless the last copy is unchanged.
    fn copy(&mut self, source: &Path, target: &Path, changes: &mut Vec<String>) -> Result<(), Problem> {
        if let (Some(stamp), Some(copied)) = (stamp(target), self.copies.get(target))
            && stamp == *copied
        {
            return Ok(());
        }
        let content = fs::read(source).map_err(|error| Problem::file("read", source, error))?;
        let is_present =
            has_mode(target, PROGRAM_MODE) && fs::read(target).is_ok_and(|present| present == content);
        if !is_present {
            files::write(target, &content, PROGRAM_MODE)?;
            changes.push(format!("{} written", target.display()));
        }
        if let Some(stamp) = stamp(target) {
            self.copies.insert(target.to_owned(), stamp);
        }
        Ok(())
    }

    /// Copies `nft` and its libraries to a folder whose name contains a hash of the files. A plugin that still runs
    /// with a removed folder fails, and the kubelet repeats ADD.
    fn install_tools(&mut self, changes: &mut Vec<String>) -> Result<(), Problem> {
        let Some(source) = self.settings.tools.clone() else {
            return Ok(());
        };
        let failed = |error| Problem::file("read", &source, error);
        let mut tools = BTreeMap::new();
        for entry in fs::read_dir(&source).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            tools.insert(entry.file_name(), entry.path());
        }
        if self.tools_name.is_none() {
            let mut hash = Xxh3::new();
            for (name, path) in &tools {
                hash.update(name.as_encoded_bytes());
                hash.update(&fs::read(path).map_err(failed)?);
            }
            self.tools_name = Some(format!("{PLUGIN}.{:016x}", hash.digest()));
        }
        let folder = self
            .program_folder()
            .join(self.tools_name.iter().collect::<PathBuf>());
        fs::create_dir_all(&folder).map_err(|error| Problem::file("create", &folder, error))?;
        let mut copies = Vec::new();
        for (name, path) in &tools {
            self.copy(path, &folder.join(name), &mut copies)?;
        }
        if !copies.is_empty() {
            changes.push(format!("{} written", folder.display()));
        }
        Ok(())
    }

    /// Removes the folders with `nft`, except the one to keep.
    fn remove_tools(&self, kept: Option<&str>) {
        let prefix = format!("{PLUGIN}.");
        for entry in fs::read_dir(self.program_folder())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&prefix) && Some(&*name) != kept {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn install_credentials(&self, changes: &mut Vec<String>) -> Result<(), Problem> {
        let kubeconfig = credentials::kubeconfig(&self.settings.credentials, &self.settings.api_server)?;
        let path = self.networks.path.join(KUBECONFIG);
        let is_present = has_mode(&path, credentials::MODE)
            && files::read_text(&path).is_ok_and(|present| present == kubeconfig);
        if !is_present {
            files::write(&path, kubeconfig.as_bytes(), credentials::MODE)?;
            changes.push(format!("{} written", path.display()));
        }
        Ok(())
    }

    /// Returns the plugin's entry in a network configuration.
    fn entry(&self) -> Value {
        let mut entry = json!({
            "type": PLUGIN,
            "kubernetes": {
                "kubeconfig": self.settings.network_folder.join(KUBECONFIG),
                "exclude_namespaces": self.settings.excluded_namespaces,
            },
        });
        if let Some(name) = &self.tools_name {
            entry["nft"] = json!(self.settings.program_folder.join(name).join("nft"));
        }
        entry
    }

    /// Checks that the programs of the chained plugins exist. The container runtime runs none of the plugins of a Pod
    /// after a missing one.
    fn check_chained_programs(&self) -> Result<(), Problem> {
        let name = self.settings.network_name.as_deref();
        let Network::List { path, text } = self.networks.first_network(name)? else {
            return Ok(());
        };
        let programs =
            conflist::chained_programs(&text).map_err(|reason| Problem::InvalidNetwork { path, reason })?;
        let folder = self.program_folder();
        // The target of a symbolic link may be a folder that this process does not see, so each link counts. A container
        // runtime rejects a name with a slash.
        let is_missing =
            |name: &String| name.contains('/') || fs::symlink_metadata(folder.join(name)).is_err();
        let missing: Vec<_> = programs.into_iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Problem::ChainedPluginMissing {
            folder: self.settings.program_folder.clone(),
            programs: missing,
        })
    }

    fn install_own_network(&self, changes: &mut Vec<String>) -> Result<(), Problem> {
        let mut network = self.entry();
        network["cniVersion"] = "0.3.1".into();
        network["name"] = PLUGIN.into();
        let text = format!("{network:#}\n");
        let path = self.own_network_path();
        if files::read_text(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        files::write(&path, text.as_bytes(), 0o644)?;
        changes.push(format!("{} written", path.display()));
        Ok(())
    }

    fn install_entry(&self, changes: &mut Vec<String>) -> Result<(), Problem> {
        let entry = self.entry();
        for _ in 0..MAX_ATTEMPTS {
            let network = self
                .networks
                .first_network(self.settings.network_name.as_deref())?;
            let (path, is_done) = match network {
                Network::List { path, text } => match conflist::with_entry(&text, &entry) {
                    Ok(Edit::Unchanged) => return Ok(()),
                    Ok(Edit::Changed(new)) => {
                        let is_done = files::replace(&path, &text, &new)?;
                        (path, is_done)
                    }
                    Err(reason) => return Err(Problem::InvalidNetwork { path, reason }),
                },
                Network::Single { path, text } => {
                    let list = conflist::list_of_single(&text, &entry).map_err(|reason| {
                        Problem::InvalidNetwork {
                            path: path.clone(),
                            reason,
                        }
                    })?;
                    files::write(&network::list_path(&path), list.as_bytes(), 0o644)?;
                    // From here on, the list is the first configuration.
                    files::rename(&path, &network::saved_path(&path))?;
                    (path, true)
                }
            };
            if is_done {
                changes.push(format!("{PLUGIN} added to {}", path.display()));
            }
        }
        Err(Problem::file(
            "change",
            &self.networks.path,
            std::io::Error::other("another process changes its files all the time"),
        ))
    }
}

/// Puts the configuration of a single plugin back in place of the list that was made of it. A list that was changed
/// since stays, and so does a configuration that another process has written under the original name.
fn restore(saved: &Path, original: &Path) -> Result<(), Problem> {
    let list = network::list_path(original);
    let text = files::read_text(saved)?;
    let is_unchanged = files::read_text(&list).is_ok_and(|present| is_list_of(&present, &text));
    if !is_unchanged {
        return files::remove(saved);
    }
    if original.exists() {
        files::remove(saved)?;
    } else {
        files::rename(saved, original)?;
    }
    files::remove(&list)
}

/// Returns whether a list was made of the configuration of a single plugin and is unchanged.
fn is_list_of(list: &str, single: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Value>(list) else {
        return false;
    };
    let entry = &list["plugins"][1];
    entry["type"] == PLUGIN
        && conflist::list_of_single(single, entry)
            .is_ok_and(|made| serde_json::from_str::<Value>(&made).is_ok_and(|made| made == list))
}

/// Removes the plugin from a list. A list without another plugin is removed.
fn remove_from_list(path: &Path) -> Result<(), Problem> {
    for _ in 0..MAX_ATTEMPTS {
        let Ok(text) = files::read_text(path) else {
            return Ok(());
        };
        match conflist::without_entry(&text) {
            Ok(Edit::Changed(new)) if !files::replace(path, &text, &new)? => {}
            Err(InvalidNetwork::NoPlugins) if conflist::has_entry(&text) => return files::remove(path),
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn has_mode(path: &Path, mode: u32) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o777 == mode)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(Stamp {
        mode: metadata.mode(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: metadata.modified().ok(),
    })
}

/// Returns the path by which this process reaches a file of the node.
fn on_node(node: &Path, path: &Path) -> PathBuf {
    node.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests;
