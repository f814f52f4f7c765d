//! The token that authenticates this proxy: the pod's service account token, which the kubelet replaces from time to
//! time. So it is read again for every stream, and kept nowhere.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use tonic::metadata::{Ascii, MetadataValue};

/// Where the token lies.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The value of the `authorization` metadata: `Bearer <token>`, marked so that it appears in no log.
    pub(crate) async fn authorization(&self) -> anyhow::Result<MetadataValue<Ascii>> {
        let path = self.path.display();
        let text = tokio::fs::read_to_string(&self.path).await.with_context(|| {
            format!(
                "token file {path} cannot be read; check KUMA_DATAPLANE_RUNTIME_TOKEN_PATH and its volume"
            )
        })?;
        let token = text.trim();
        ensure!(!token.is_empty(), "token file {path} is empty");
        // The parser's error would quote the token.
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| anyhow::anyhow!("token file {path} holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_token_is_used_and_never_shown() {
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
        let odd = format!("{:#}", file.authorization().await.unwrap_err());
        assert!(
            odd.contains(&path.display().to_string()) && !odd.contains("cret"),
            "{odd}"
        );
    }
}
