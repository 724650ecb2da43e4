//! Finds the server's programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::error::{EmbeddedError, OLDEST_MAJOR};
use super::{EmbeddedSettings, fetch};

/// Where packages install the programs: a folder, the prefix of its version
/// folders, and the folder of the programs in those.
const USUAL_PLACES: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// `postgres --version` takes milliseconds; a broken file system may hang.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// A folder with `postgres` and `initdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

/// Every usable PostgreSQL, newest first. None only if no folder was chosen.
pub(super) async fn installed(
    settings: &EmbeddedSettings,
    data_dir: &Path,
) -> Result<Vec<Binaries>, EmbeddedError> {
    if let Some(dir) = &settings.binaries_dir {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        return match inspect(&dir).await {
            Some(binaries) => Ok(vec![binaries]),
            None => Err(EmbeddedError::NoBinaries {
                searched: dir.display().to_string(),
                not_fetched: "",
            }),
        };
    }
    let mut installed = Vec::new();
    if settings.use_installed {
        for dir in usual_folders() {
            installed.extend(inspect(&dir).await);
        }
        if installed.is_empty() {
            for dir in path_folders(settings.search_path.as_deref()) {
                installed.extend(inspect(&dir).await);
            }
        }
    }
    for dir in fetch::fetched(data_dir)? {
        installed.extend(inspect(&dir).await);
    }
    installed.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    Ok(installed)
}

/// Selects the version to run: that of the newest data, or the newest installed one.
///
/// If the version of existing data is not installed, this is an error: otherwise the
/// user would see an empty database.
pub(super) fn choose(
    installed: Vec<Binaries>,
    clusters: &[u32],
    data_dir: &Path,
) -> Result<Binaries, EmbeddedError> {
    let newest_data = clusters.iter().max();
    let available: Vec<String> = installed.iter().map(|b| b.major.to_string()).collect();
    installed
        .into_iter()
        .find(|binaries| newest_data.is_none_or(|major| *major == binaries.major))
        .ok_or_else(|| EmbeddedError::OtherMajor {
            folder: data_dir.to_owned(),
            found: newest_data.map_or_else(String::new, u32::to_string),
            available: available.join(", "),
        })
}

fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, programs) in USUAL_PLACES {
        for version in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if version.file_name().to_string_lossy().starts_with(prefix) {
                folders.push(version.path().join(programs));
            }
        }
    }
    folders
}

/// The folders of the `postgres` programs in PATH. Links are followed,
/// because `initdb` is in the folder of the program, not of the link.
fn path_folders(search_path: Option<&OsStr>) -> Vec<PathBuf> {
    std::env::split_paths(search_path.unwrap_or_default())
        .filter_map(|folder| folder.join("postgres").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_owned))
        .collect()
}

/// The PostgreSQL in this folder, if it is usable.
pub(super) async fn inspect(dir: &Path) -> Option<Binaries> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    let version = Command::new(dir.join("postgres"))
        .arg("--version")
        .env_clear()
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, version)
        .await
        .ok()?
        .ok()?;
    let major = major(&String::from_utf8_lossy(&output.stdout))?;
    (major >= OLDEST_MAJOR).then(|| Binaries {
        dir: dir.to_owned(),
        major,
    })
}

/// The major in "postgres (PostgreSQL) 15.18 (Debian …)", "… 18beta2", "… 17devel".
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(major: u32) -> Binaries {
        Binaries {
            dir: PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
            major,
        }
    }

    #[test]
    fn the_major_is_read_from_every_kind_of_version() {
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("postgres: command not found"), None);
    }

    #[test]
    fn the_newest_is_run_when_there_are_no_data() {
        let chosen = choose(vec![binaries(17), binaries(15)], &[], Path::new("/d")).unwrap();
        assert_eq!(chosen, binaries(17));
    }

    #[test]
    fn the_version_of_the_newest_data_is_run_even_if_a_newer_one_is_installed() {
        let installed = vec![binaries(17), binaries(15), binaries(14)];
        let chosen = choose(installed, &[14, 15], Path::new("/d")).unwrap();
        assert_eq!(chosen, binaries(15));
    }

    #[test]
    fn data_whose_version_is_not_installed_are_not_passed_over() {
        let error = choose(vec![binaries(17), binaries(14)], &[14, 15], Path::new("/d"));
        assert_eq!(
            error.unwrap_err().to_string(),
            "the data in /d needs PostgreSQL 15, but only 17, 14 is available"
        );
    }

    #[tokio::test]
    async fn a_link_on_the_path_leads_to_the_programs_beside_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("17/bin");
        let on_path = folder.path().join("bin");
        std::fs::create_dir_all(&programs).unwrap();
        std::fs::create_dir_all(&on_path).unwrap();
        std::fs::write(programs.join("postgres"), "").unwrap();
        std::os::unix::fs::symlink(programs.join("postgres"), on_path.join("postgres")).unwrap();
        assert_eq!(
            path_folders(Some(on_path.as_os_str())),
            [programs.canonicalize().unwrap()]
        );
    }
}
