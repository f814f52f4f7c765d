//! Finds the network configuration of the node: the file that the container runtime uses, and to which the plugin is
//! added.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::conflist;
use crate::files;
use crate::problem::Problem;

/// End of the name under which the configuration of a single plugin is kept while a list replaces it.
const SAVED_SUFFIX: &str = ".kuma-cni-saved";

/// Number of symbolic links that are followed.
const MAX_LINKS: usize = 8;

/// Folder with network configurations.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFolder {
    /// Path by which this process reaches the folder.
    pub(crate) path: PathBuf,
    /// Path of the folder on the node, which absolute symbolic links contain.
    pub(crate) node_path: PathBuf,
}

/// A valid network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// A list of plugins. `path` is the file itself, not a symbolic link.
    List { path: PathBuf, text: String },
    /// The configuration of a single plugin.
    Single { path: PathBuf, text: String },
}

impl NetworkFolder {
    /// Returns the first valid network configuration, in the order of container runtimes. With `name`, considers only
    /// this file, or the list that replaced it.
    pub(crate) fn first_network(&self, name: Option<&str>) -> Result<Network, Problem> {
        let names: Vec<String> = match name {
            Some(name) => [name.to_owned(), list_name(name)]
                .into_iter()
                .filter(|name| fs::symlink_metadata(self.path.join(name)).is_ok())
                .take(1)
                .collect(),
            None => self.names()?,
        };
        let mut first_problem = None;
        for name in names {
            match self.read(&name) {
                Ok(network) => return Ok(network),
                // The container runtime can follow the link, so it uses this file and none of the later ones.
                Err(problem @ Problem::LinkOutside(_)) => return Err(problem),
                Err(problem) => {
                    tracing::debug!(name, %problem, "file skipped");
                    first_problem.get_or_insert(problem);
                }
            }
        }
        Err(first_problem.unwrap_or_else(|| Problem::NoNetwork(self.node_path.clone())))
    }

    /// Returns the names of all files that a container runtime considers, in its order.
    pub(crate) fn names(&self) -> Result<Vec<String>, Problem> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Problem::NoNetwork(self.node_path.clone()));
            }
            Err(error) => return Err(Problem::file("read", &self.path, error)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| matches!(extension(name), "conf" | "conflist" | "json"))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Network, Problem> {
        let path = self.resolve(name)?;
        let text = files::read_text(&path)?;
        let is_list = extension(name) == "conflist";
        let check = if is_list {
            conflist::check_list
        } else {
            conflist::check_single
        };
        check(&text).map_err(|reason| Problem::InvalidNetwork {
            path: path.clone(),
            reason,
        })?;
        Ok(if is_list {
            Network::List { path, text }
        } else {
            Network::Single { path, text }
        })
    }

    /// Follows the symbolic links of a file.
    pub(crate) fn resolve(&self, name: &str) -> Result<PathBuf, Problem> {
        let link = self.path.join(name);
        let mut path = link.clone();
        for _ in 0..MAX_LINKS {
            let Ok(target) = fs::read_link(&path) else {
                return Ok(path);
            };
            path = self
                .within(&target)
                .ok_or_else(|| Problem::LinkOutside(link.clone()))?;
        }
        Err(Problem::LinkOutside(link))
    }

    /// Returns the path of a link's target by which this process reaches it; `None` if the target is not in the folder.
    fn within(&self, target: &Path) -> Option<PathBuf> {
        let target = match target.strip_prefix(&self.node_path) {
            Ok(relative) => relative,
            Err(_) => target,
        };
        let mut parts = target
            .components()
            .filter(|part| !matches!(part, Component::CurDir));
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(name)), None) => Some(self.path.join(name)),
            _ => None,
        }
    }
}

/// Returns the path of the list that replaces the configuration of a single plugin. A list of that name that is not the
/// installer's keeps its name.
pub(crate) fn list_path(single: &Path) -> PathBuf {
    let same_name = single.with_extension("conflist");
    let is_free =
        !same_name.exists() || files::read_text(&same_name).is_ok_and(|text| conflist::has_entry(&text));
    if is_free {
        same_name
    } else {
        let stem = single.file_stem().unwrap_or_default().to_string_lossy();
        single.with_file_name(format!("{stem}-kuma-cni.conflist"))
    }
}

/// Returns the path under which the configuration of a single plugin is kept.
pub(crate) fn saved_path(single: &Path) -> PathBuf {
    let name = single.file_name().unwrap_or_default().to_string_lossy();
    single.with_file_name(format!("{name}{SAVED_SUFFIX}"))
}

/// Returns the kept configurations of single plugins, each with its original path.
pub(crate) fn saved_files(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| {
            let original = name.strip_suffix(SAVED_SUFFIX)?;
            Some((folder.join(&name), folder.join(original)))
        })
        .collect()
}

fn list_name(single: &str) -> String {
    Path::new(single)
        .with_extension("conflist")
        .to_string_lossy()
        .into_owned()
}

fn extension(name: &str) -> &str {
    Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
}
