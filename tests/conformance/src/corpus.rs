//! Reads a corpus: a folder with one folder for each suite. The folder of a suite contains `cases.json` and the files
//! that the cases name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One suite of the corpus: its `cases.json` and its folder.
#[derive(Debug)]
pub struct Suite {
    /// Name of the suite.
    pub name: String,
    /// Folder of the suite. The file names in cases are relative to it.
    folder: PathBuf,
    /// Content of `cases.json`.
    pub json: Value,
}

/// Reads all suites of a corpus, sorted by folder.
///
/// # Errors
/// The folder contains no suite, or a `cases.json` cannot be read.
pub fn read(folder: &Path) -> Result<Vec<Suite>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the corpus {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry?.path().join("cases.json");
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} has no suite: expected <suite>/cases.json", folder.display());
    }
    files.iter().map(|file| Suite::read(file)).collect()
}

// === impl Suite ===

impl Suite {
    fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let json: Value =
            serde_json::from_str(&text).with_context(|| format!("cannot decode {}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        let folder_name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = match json["suite"].as_str() {
            Some(name) => name.to_owned(),
            None => folder_name.unwrap_or_default(),
        };
        Ok(Self { name, folder, json })
    }

    /// Returns the cases in the order of the file.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let cases = self.json["cases"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        cases.iter().map(|json| Case { suite: self, json }).collect()
    }

    /// Returns the text of a file beside `cases.json`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn text(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Returns the YAML (or JSON) documents of a file beside `cases.json`, without empty documents.
    ///
    /// # Errors
    /// The file cannot be read or is not YAML.
    pub fn yaml_documents(&self, name: &str) -> Result<Vec<Value>> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&self.text(name)?)
            .with_context(|| format!("cannot decode {name}"))?;
        Ok(documents
            .into_iter()
            .filter(|document| !document.is_null())
            .collect())
    }

    /// Returns the only YAML (or JSON) document of a file beside `cases.json`.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or has several documents.
    pub fn yaml(&self, name: &str) -> Result<Value> {
        let mut documents = self.yaml_documents(name)?;
        match (documents.pop(), documents.len()) {
            (Some(document), 0) => Ok(document),
            _ => bail!("{name} must contain exactly one YAML document"),
        }
    }
}

/// One case of a suite.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Suite of the case.
    pub suite: &'a Suite,
    /// The case as in `cases.json`.
    pub json: &'a Value,
}

// === impl Case ===

impl<'a> Case<'a> {
    fn text_field(&self, name: &str) -> &'a str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// Returns the identifier of the case, which is unique in the suite.
    pub fn id(&self) -> &'a str {
        self.text_field("id")
    }

    /// Returns the kind of the case. The suite and the kind select the runner; each suite defines its own kinds.
    pub fn kind(&self) -> &'a str {
        self.text_field("kind")
    }

    /// Returns the value of the case at a JSON pointer; null if the case has no value there.
    pub fn at(&self, pointer: &str) -> &'a Value {
        self.json.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// Decodes the value of the case at a JSON pointer. A missing value is decoded like null.
    ///
    /// # Errors
    /// The value does not have the requested type.
    pub fn decode<T: DeserializeOwned>(&self, pointer: &str) -> Result<T> {
        serde_json::from_value(self.at(pointer).clone())
            .with_context(|| format!("cannot decode {pointer} of case {}", self.id()))
    }

    /// Returns the name of a file: the value of `files.<key>`.
    ///
    /// # Errors
    /// The case has no `files.<key>`.
    pub fn file_name(&self, key: &str) -> Result<&'a str> {
        self.json["files"][key]
            .as_str()
            .ok_or_else(|| anyhow!("case {} has no `files.{key}`", self.id()))
    }

    /// Returns the YAML (or JSON) document of the file that `files.<key>` names.
    ///
    /// # Errors
    /// See [`Suite::yaml`].
    pub fn document(&self, key: &str) -> Result<Value> {
        self.suite.yaml(self.file_name(key)?)
    }

    /// Returns the YAML (or JSON) documents of the file that `files.<key>` names; none if the case has no
    /// `files.<key>`.
    ///
    /// # Errors
    /// See [`Suite::yaml_documents`].
    pub fn documents(&self, key: &str) -> Result<Vec<Value>> {
        match self.json["files"][key].as_str() {
            Some(name) => self.suite.yaml_documents(name),
            None => Ok(Vec::new()),
        }
    }
}
