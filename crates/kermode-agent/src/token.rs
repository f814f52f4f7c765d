//! Token that authenticates the proxy: the Pod's service account token. The kubelet replaces the token from time to
//! time, so the file is read for every call.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use kermode_protocol::client::Authorization;

/// File with the token; cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// Returns the token file at `path`. Does not read it.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the token. Returns `Bearer <token>`, marked as sensitive, so that `Debug` hides the token.
    ///
    /// # Errors
    /// Fails when the file cannot be read, is empty or has characters that are not allowed in a token.
    pub async fn authorization(&self) -> anyhow::Result<Authorization> {
        let path = self.path.display();
        let text = tokio::fs::read_to_string(&self.path).await.with_context(|| {
            format!(
                "token file {path} cannot be read; check KUMA_DATAPLANE_RUNTIME_TOKEN_PATH and its volume"
            )
        })?;
        let token = text.trim();
        ensure!(!token.is_empty(), "token file {path} is empty");
        // The parser's error would quote the token.
        let mut value: Authorization = format!("Bearer {token}").parse().map_err(|_| {
            anyhow::anyhow!("token file {path} has characters that are not allowed in a token")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_is_read_for_every_call_and_the_token_is_hidden_from_debug() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = TokenFile::new(path.clone());
        for token in ["first", "second"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            let value = file.authorization().await.unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(!format!("{value:?}").contains(token));
        }
    }

    #[tokio::test]
    async fn errors_name_the_file_and_not_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = TokenFile::new(path.clone());
        let missing = format!("{:#}", file.authorization().await.unwrap_err());
        assert!(missing.contains("KUMA_DATAPLANE_RUNTIME_TOKEN_PATH"), "{missing}");
        std::fs::write(&path, "se\u{7f}cret").unwrap();
        let malformed = format!("{:#}", file.authorization().await.unwrap_err());
        assert!(
            malformed.contains(&path.display().to_string()) && !malformed.contains("cret"),
            "{malformed}"
        );
    }
}
