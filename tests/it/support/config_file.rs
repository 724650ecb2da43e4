//! A configuration file, and other files in the same directory.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

/// In a folder that is removed when this value is dropped. Only the owner may read the files.
pub(crate) struct ConfigFile(TempDir);

impl ConfigFile {
    pub(crate) fn new(text: &str) -> ConfigFile {
        let file = ConfigFile(tempfile::tempdir().unwrap());
        file.add("swr-sync.toml", text);
        file
    }

    pub(crate) fn path(&self) -> String {
        self.path_of("swr-sync.toml")
    }

    /// Writes a file, and returns its path.
    pub(crate) fn add(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path_of(name), text).unwrap();
        self.set_mode(name, 0o600);
        self.path_of(name)
    }

    pub(crate) fn mode(self, mode: u32) -> ConfigFile {
        self.set_mode("swr-sync.toml", mode);
        self
    }

    fn set_mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path_of(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn path_of(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}
