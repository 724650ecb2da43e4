//! Replaces `embedded.rs` in builds without the feature `embedded-db`.

use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct EmbeddedArgs {}

impl EmbeddedArgs {
    pub(super) fn is_wanted(&self) -> bool {
        false
    }

    pub(super) async fn start(&self) -> Result<EmbeddedServer, Failure> {
        Err(Failure::new(
            Exit::Usage,
            "no database URL is set, and this build has no embedded database",
        )
        .hint("set DATABASE_URL, or DATABASE_URL_FILE to the path of a file that contains it"))
    }

    pub(super) async fn look(&self) -> Result<(PathBuf, Option<String>), Failure> {
        match self.start().await? {}
    }
}

#[derive(Debug)]
pub(super) enum EmbeddedServer {}

impl EmbeddedServer {
    pub(super) fn url(&self) -> &str {
        match *self {}
    }

    pub(super) fn url_of(&self, _: &str) -> String {
        match *self {}
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        match self {}
    }
}

pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}
