//! Edits the text of a network configuration: adds the plugin's entry to the list of plugins, and removes it.
//!
//! Everything else keeps its text: the order of the members, numbers of any size, and members that no version of the
//! CNI specification defines.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Name of the plugin's program, and `type` of its entry.
pub const PLUGIN: &str = "kuma-cni";

/// Versions of the CNI specification that the plugin supports.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Name of a list that is made of a network without a name.
const DEFAULT_NAME: &str = "k8s-pod-network";

/// Version that the specification defines for a configuration without a version.
const VERSION_OF_CONFIGURATIONS_WITHOUT_ONE: &str = "0.2.0";

/// Result of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The text needs no change.
    Unchanged,
    /// The new text.
    Changed(String),
}

/// Text that the container runtime would not accept as a network configuration, or that the plugin cannot be added to.
#[derive(Debug, thiserror::Error)]
pub enum InvalidNetwork {
    /// The text is not a JSON object of the expected form.
    #[error("it is not a network configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// The list has no plugins.
    #[error("its list of plugins is empty")]
    NoPlugins,
    /// A plugin has no type.
    #[error("its plugin {0} has no type")]
    NoType(usize),
    /// The plugin does not support the version of the CNI specification, so each Pod would fail.
    #[error(
        "its cniVersion {0:?} is not one of {supported}, which kuma-cni supports",
        supported = SUPPORTED_VERSIONS.join(", ")
    )]
    Version(String),
}

/// Adds the plugin's entry as the last plugin of a list. An entry that is present is replaced at its position, unless it
/// is the first plugin, which has to create the interfaces.
///
/// # Errors
/// If the text is not a list of plugins, or the plugin does not support its version.
pub fn with_entry(text: &str, entry: &Value) -> Result<Edit, InvalidNetwork> {
    let mut list = List::parse(text)?;
    list.check_version()?;
    let own: Vec<usize> = list.own_positions();
    if let [position] = own[..]
        && position > 0
        && list.plugins[position].value == *entry
    {
        return Ok(Edit::Unchanged);
    }
    if own.len() == list.plugins.len() {
        return Err(InvalidNetwork::NoPlugins);
    }
    let follows_another = |position: &usize| (0..*position).any(|earlier| !own.contains(&earlier));
    let kept = own.iter().copied().find(follows_another);
    let mut plugins = Vec::new();
    for (position, plugin) in list.plugins.drain(..).enumerate() {
        if Some(position) == kept {
            plugins.push(entry.to_string());
        } else if !own.contains(&position) {
            plugins.push(plugin.text);
        }
    }
    if kept.is_none() {
        plugins.push(entry.to_string());
    }
    Ok(Edit::Changed(list.render(&plugins)))
}

/// Removes the plugin's entries from a list.
///
/// # Errors
/// If the text is not a list of plugins, or the list has no other plugin.
pub fn without_entry(text: &str) -> Result<Edit, InvalidNetwork> {
    let list = List::parse(text)?;
    let own = list.own_positions();
    if own.is_empty() {
        return Ok(Edit::Unchanged);
    }
    let others: Vec<String> = list
        .plugins
        .iter()
        .enumerate()
        .filter(|(position, _)| !own.contains(position))
        .map(|(_, plugin)| plugin.text.clone())
        .collect();
    if others.is_empty() {
        return Err(InvalidNetwork::NoPlugins);
    }
    Ok(Edit::Changed(list.render(&others)))
}

/// Makes a list of a configuration with a single plugin, and adds the plugin's entry. The list keeps name and version:
/// plugins that manage addresses store them under the name of the network.
///
/// # Errors
/// If the text is not the configuration of a plugin, or the plugin does not support its version.
pub fn list_of_single(text: &str, entry: &Value) -> Result<String, InvalidNetwork> {
    let members: Members = serde_json::from_str(text)?;
    let plugin = Plugin::parse(0, text.trim())?;
    let member = |key: &str| plugin.value.get(key).and_then(Value::as_str);
    let version = member("cniVersion").unwrap_or(VERSION_OF_CONFIGURATIONS_WITHOUT_ONE);
    check_version(version)?;
    let name = member("name").unwrap_or(DEFAULT_NAME);
    let plugin_members: Vec<String> = members
        .0
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "cniVersion" | "name"))
        .map(|(key, value)| format!("{}: {value}", json_string(key)))
        .collect();
    let head = vec![
        format!("\"cniVersion\": {}", json_string(version)),
        format!("\"name\": {}", json_string(name)),
    ];
    let plugins = [format!("{{{}}}", plugin_members.join(", ")), entry.to_string()];
    Ok(render(head, &plugins))
}

/// Returns the names of the programs that a container runtime runs for a list, without the plugin's own: those of the
/// chained plugins, and of the plugins that manage addresses for them.
///
/// # Errors
/// If the text is not a list of plugins.
pub fn chained_programs(text: &str) -> Result<BTreeSet<String>, InvalidNetwork> {
    let list = List::parse(text)?;
    let plugins = list.plugins.iter().map(|plugin| &plugin.value);
    let names = plugins.flat_map(|plugin| [&plugin["type"], &plugin["ipam"]["type"]]);
    let names = names
        .filter_map(Value::as_str)
        .filter(|name| !name.is_empty() && *name != PLUGIN);
    Ok(names.map(str::to_owned).collect())
}

/// Returns whether a text is a list with the plugin's entry.
pub fn has_entry(text: &str) -> bool {
    List::parse(text).is_ok_and(|list| !list.own_positions().is_empty())
}

/// Checks that a container runtime would accept the text as a list of plugins.
///
/// # Errors
/// If it would not.
pub fn check_list(text: &str) -> Result<(), InvalidNetwork> {
    List::parse(text).map(|_| ())
}

/// Checks that a container runtime would accept the text as the configuration of a single plugin.
///
/// # Errors
/// If it would not.
pub fn check_single(text: &str) -> Result<(), InvalidNetwork> {
    Plugin::parse(0, text).map(|_| ())
}

fn check_version(version: &str) -> Result<(), InvalidNetwork> {
    if SUPPORTED_VERSIONS.contains(&version) {
        Ok(())
    } else {
        Err(InvalidNetwork::Version(version.to_owned()))
    }
}

/// A list of plugins.
struct List {
    members: Members,
    plugins: Vec<Plugin>,
}

/// A plugin of a list.
struct Plugin {
    /// The text in the file.
    text: String,
    value: Value,
}

/// Members of a JSON object, in their order and with the text of their values.
struct Members(Vec<(String, Box<RawValue>)>);

impl Plugin {
    fn parse(position: usize, text: &str) -> Result<Self, InvalidNetwork> {
        let value: Value = serde_json::from_str(text)?;
        match value.get("type").and_then(Value::as_str) {
            Some(kind) if !kind.is_empty() => Ok(Self {
                text: text.to_owned(),
                value,
            }),
            _ => Err(InvalidNetwork::NoType(position)),
        }
    }
}

impl List {
    fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let members: Members = serde_json::from_str(text)?;
        let plugins: Vec<Box<RawValue>> = members
            .get("plugins")
            .map_or(Ok(Vec::new()), |plugins| serde_json::from_str(plugins.get()))?;
        if plugins.is_empty() {
            return Err(InvalidNetwork::NoPlugins);
        }
        let plugins = plugins
            .iter()
            .enumerate()
            .map(|(position, plugin)| Plugin::parse(position, plugin.get()))
            .collect::<Result<_, _>>()?;
        Ok(Self { members, plugins })
    }

    fn own_positions(&self) -> Vec<usize> {
        let own = |plugin: &Plugin| plugin.value["type"] == PLUGIN;
        let positions = self.plugins.iter().enumerate();
        positions
            .filter(|(_, plugin)| own(plugin))
            .map(|(position, _)| position)
            .collect()
    }

    /// Checks the version that the runtime passes to the plugins: `cniVersion`, or the highest of `cniVersions`.
    fn check_version(&self) -> Result<(), InvalidNetwork> {
        let version: Option<String> = self
            .members
            .get("cniVersion")
            .map_or(Ok(None), |version| serde_json::from_str(version.get()))?;
        let others: Vec<String> = self
            .members
            .get("cniVersions")
            .map_or(Ok(Vec::new()), |versions| serde_json::from_str(versions.get()))?;
        if version.is_none() && others.is_empty() {
            return check_version(VERSION_OF_CONFIGURATIONS_WITHOUT_ONE);
        }
        version
            .iter()
            .chain(&others)
            .try_for_each(|version| check_version(version))
    }

    fn render(&self, plugins: &[String]) -> String {
        let head = self
            .members
            .0
            .iter()
            .filter(|(key, _)| key != "plugins")
            .map(|(key, value)| format!("{}: {value}", json_string(key)))
            .collect();
        render(head, plugins)
    }
}

fn render(mut members: Vec<String>, plugins: &[String]) -> String {
    members.push(format!("\"plugins\": [\n    {}\n  ]", plugins.join(",\n    ")));
    format!("{{\n  {}\n}}\n", members.join(",\n  "))
}

fn json_string(text: &str) -> Value {
    Value::from(text)
}

impl Members {
    /// Returns the value of a key. The last of several equal keys counts, as in container runtimes.
    fn get(&self, key: &str) -> Option<&RawValue> {
        let mut members = self.0.iter().rev();
        members.find(|(found, _)| found == key).map(|(_, value)| &**value)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests;
