//! How an application repository builds its images: the steps of a Dockerfile, which of
//! them come from the build cache, and what a rebuild changes.
//!
//! Each build is base image + toolchain + dependencies + the build's own steps.
//! A change of one part rebuilds all parts after it, as a build cache does.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::image::{
    Created, DOCKER_LAYER, Digest, Layer, Manifest, ManifestKind, OCI_LAYER, Segment, Step,
};

/// The generator of all random values in a world. It is a fixed
/// algorithm, so a seed generates the same world with every release of `rand`.
pub(super) type Chance = Xoshiro256PlusPlus;

/// An independent sequence for each subject, so that one
/// repository does not depend on the others.
pub(super) fn chance(seed: u64, subject: u64) -> Chance {
    Chance::seed_from_u64(seed ^ subject.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The Dockerfile of one repository and the state of its build cache.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    chance: Chance,
    /// Which base image it starts from.
    pub(super) base: usize,
    language: &'static Language,
    tool: BuildTool,
    tagging: Tagging,
    kind: ManifestKind,
    /// Time zone of the build machine; most use UTC.
    offset_minutes: i16,
    /// Makes layers of equal commands differ between repositories.
    salt: u64,
    compiles_in_image: bool,
    labels_builds: bool,
    version: (u32, u32, u32),
    cached: Option<Cache>,
    /// The last few command texts; see [`Recipe::shared`].
    commands: Vec<Arc<str>>,
}

/// The parts of the last build that the next one reuses.
#[derive(Debug, Clone)]
struct Cache {
    base: Arc<Segment>,
    toolchain: Arc<Segment>,
    dependencies: Arc<Segment>,
}

/// A finished build.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) manifest: Arc<Manifest>,
    /// Tags that stay at this build.
    pub(super) tags: Vec<String>,
    /// Tags that move to each new build.
    pub(super) moving_tags: &'static [&'static str],
}

/// The tool that wrote the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BuildTool {
    BuildKit,
    Classic,
    /// Java without a Dockerfile; all steps have a time in 1970.
    Jib,
    /// Go without a Dockerfile; all steps have the zero time.
    Ko,
}

/// How a repository names its builds.
#[derive(Debug, Clone, Copy)]
enum Tagging {
    Version,
    Commit,
    VersionAndCommit,
    /// Older builds become untagged.
    LatestOnly,
}

/// A Dockerfile instruction, as far as build histories contain it.
enum Instruction<'a> {
    Run(String),
    Copy(&'a str, &'a str),
    Env(String),
    Arg(String),
    Label(String),
    Workdir(&'a str),
    Expose(u16),
    User(&'a str),
    Cmd(&'a str),
}

#[derive(Debug)]
struct Language {
    environment: &'static str,
    /// Separated by spaces.
    packages: &'static str,
    lock_files: &'static str,
    install: &'static [&'static str],
    compile: &'static str,
    built: &'static str,
    command: &'static str,
    port: u16,
}

const LANGUAGES: &[Language] = &[
    Language {
        environment: "NODE_ENV=production NPM_CONFIG_LOGLEVEL=warn NODE_OPTIONS=--max-old-space-size=1536",
        packages: "build-essential python3 git libvips-dev openssh-client node-gyp libcairo2-dev libpango1.0-dev libjpeg-dev",
        lock_files: "package.json package-lock.json",
        install: &[
            "npm ci --omit=dev --no-audit --no-fund && npm cache clean --force",
            "npm ci --omit=dev --prefer-offline --ignore-scripts && npm rebuild sharp bcrypt",
        ],
        compile: "npm run build && npm prune --omit=dev && rm -rf src test .eslintrc.json tsconfig.json",
        built: ".",
        command: "\"node\" \"--enable-source-maps\" \"dist/server.js\"",
        port: 3000,
    },
    Language {
        environment: "PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1",
        packages: "gcc libpq-dev libffi-dev libxml2-dev libxslt1-dev gettext libgdal-dev libmagic1 postgresql-client",
        lock_files: "requirements.txt constraints.txt",
        install: &[
            "pip install --no-cache-dir --require-hashes -r requirements.txt && find /usr/local/lib -name '*.pyc' -delete && find /usr/local/lib -type d -name tests -prune -exec rm -rf {} +",
            "pip install --upgrade pip && pip install -r requirements.txt gunicorn uvicorn[standard] psycopg2-binary celery[redis] sentry-sdk opentelemetry-distro opentelemetry-exporter-otlp",
        ],
        compile: "python manage.py collectstatic --noinput && python -m compileall -q /app",
        built: ".",
        command: "\"gunicorn\" \"--workers\" \"4\" \"--bind\" \"0.0.0.0:8000\" \"app.wsgi\"",
        port: 8000,
    },
    Language {
        environment: "JAVA_TOOL_OPTIONS=-XX:MaxRAMPercentage=75.0 -XX:+ExitOnOutOfMemoryError SPRING_PROFILES_ACTIVE=production",
        packages: "fontconfig tzdata locales p11-kit tini libfreetype6 procps net-tools",
        lock_files: "gradle gradlew build.gradle.kts settings.gradle.kts gradle.properties",
        install: &[
            "./gradlew --no-daemon --console=plain dependencies && rm -rf /root/.gradle/caches/*/plugin-resolution",
            "mvn -B -e -q -T 1C org.apache.maven.plugins:maven-dependency-plugin:3.6.1:go-offline -DexcludeGroupIds=com.example -Dmaven.wagon.http.retryHandler.count=3",
        ],
        compile: "./gradlew --no-daemon bootJar -x test && java -Djarmode=layertools -jar build/libs/app.jar extract --destination /app",
        built: "/workspace/build/libs/app.jar",
        command: "\"java\" \"-jar\" \"/app/app.jar\"",
        port: 8080,
    },
    Language {
        environment: "CGO_ENABLED=0 GOFLAGS=-mod=readonly -trimpath",
        packages: "git make protobuf-compiler upx-ucl musl-tools ca-certificates",
        lock_files: "go.mod go.sum",
        install: &["go mod download -x && go mod verify"],
        compile: "go build -ldflags \"-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}\" -o /out/server ./cmd/server && upx --best --lzma /out/server",
        built: "/out/server",
        command: "\"/app/server\" \"--config\" \"/etc/app/config.yaml\"",
        port: 8080,
    },
    Language {
        environment: "RAILS_ENV=production RAILS_LOG_TO_STDOUT=1 BUNDLE_WITHOUT=development:test",
        packages: "build-essential libpq-dev nodejs yarn imagemagick libvips42 shared-mime-info libjemalloc2",
        lock_files: "Gemfile Gemfile.lock",
        install: &[
            "bundle config set deployment true && bundle install --jobs 4 --retry 3 && rm -rf vendor/bundle/ruby/*/cache && find vendor/bundle -name '*.o' -delete",
        ],
        compile: "SECRET_KEY_BASE=dummy bundle exec rake assets:precompile && rm -rf node_modules tmp/cache",
        built: ".",
        command: "\"bundle\" \"exec\" \"puma\" \"-C\" \"config/puma.rb\"",
        port: 3000,
    },
    Language {
        environment: "NGINX_ENTRYPOINT_QUIET_LOGS=1",
        packages: "gettext-base brotli libnginx-mod-http-brotli-filter curl openssl",
        lock_files: "nginx.conf mime.types",
        install: &[
            "mkdir -p /var/cache/nginx /var/run/nginx && chown -R 101:101 /var/cache/nginx /var/run/nginx && chmod -R 777 /var/cache/nginx",
        ],
        compile: "find /usr/share/nginx/html -type f -regex '.*\\.\\(js\\|css\\|svg\\|html\\)' -exec gzip -k9 {} \\; -exec brotli -k {} \\;",
        built: "/src/dist",
        command: "\"nginx\" \"-g\" \"daemon off;\"",
        port: 8080,
    },
];

const TAGGINGS: &[Tagging] = &[
    Tagging::Version,
    Tagging::Version,
    Tagging::Commit,
    Tagging::VersionAndCommit,
    Tagging::LatestOnly,
];

/// Probability per build that a new release of the base image is used.
const BASE_FOLLOWED: f64 = 0.1;
/// Probability per build that the Dockerfile's first part changes.
const TOOLCHAIN_CHANGES: f64 = 0.02;
/// Probability per build that the lock files change.
const DEPENDENCIES_CHANGE: f64 = 0.1;
/// About the number of commands of two builds.
const COMMANDS_KEPT: usize = 32;
/// What Go programs write for a time that was not set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Software that long RUN steps download: name and address.
const DOWNLOADS: &[(&str, &str)] = &[
    ("tini", "https://github.com/krallin/tini/releases/download"),
    ("gosu", "https://github.com/tianon/gosu/releases/download"),
    (
        "dumb-init",
        "https://github.com/Yelp/dumb-init/releases/download",
    ),
    (
        "grpc_health_probe",
        "https://github.com/grpc-ecosystem/grpc-health-probe/releases/download",
    ),
    (
        "otel-agent",
        "https://artifacts.corp.example/telemetry/otel-agent",
    ),
    ("vault", "https://releases.hashicorp.example/vault"),
    ("envconsul", "https://releases.hashicorp.example/envconsul"),
    (
        "jmx_exporter",
        "https://repo.maven.example/maven2/io/prometheus/jmx",
    ),
];

impl Recipe {
    /// A repository's way of building, chosen from its random sequence.
    pub(super) fn new(mut chance: Chance, base: usize) -> Recipe {
        let tool = match chance.random_range(0..100) {
            0..62 => BuildTool::BuildKit,
            62..94 => BuildTool::Classic,
            94..97 => BuildTool::Jib,
            _ => BuildTool::Ko,
        };
        let is_oci = tool == BuildTool::BuildKit && chance.random_bool(0.5);
        let is_local_time = chance.random_bool(0.04);
        Recipe {
            base,
            language: pick(&mut chance, LANGUAGES),
            tool,
            tagging: *pick(&mut chance, TAGGINGS),
            kind: if is_oci {
                ManifestKind::OciImage
            } else {
                ManifestKind::DockerImage
            },
            offset_minutes: if is_local_time {
                *pick(&mut chance, &[120, 660, -300, 330])
            } else {
                0
            },
            compiles_in_image: chance.random_bool(0.4),
            labels_builds: chance.random_bool(0.5),
            salt: chance.random(),
            version: (chance.random_range(0..4), chance.random_range(0..9), 0),
            cached: None,
            commands: Vec::new(),
            chance,
        }
    }

    /// The next build, at the given time, on the given release of the base image.
    pub(super) fn build(&mut self, base: &Arc<Segment>, at: DateTime<Utc>) -> Build {
        self.next_version();
        let cache = self.refresh_cache(base, at);
        let own = match self.tool {
            BuildTool::BuildKit | BuildTool::Classic => self.own_steps(at),
            BuildTool::Jib | BuildTool::Ko => self.plain_layers(2, at),
        };
        let segments = [cache.base, cache.toolchain, cache.dependencies, own]
            .into_iter()
            .filter(|segment| !segment.steps.is_empty())
            .collect();
        let (tags, moving_tags) = self.tags();
        Build {
            manifest: Manifest::image(self.kind, segments),
            tags,
            moving_tags,
        }
    }

    /// The build cache after this build: a changed part and all later ones are replaced.
    fn refresh_cache(&mut self, base: &Arc<Segment>, at: DateTime<Utc>) -> Cache {
        let known = self.cached.take().filter(|cache| {
            cache.base.digest == base.digest || !self.chance.random_bool(BASE_FOLLOWED)
        });
        let cache = match known {
            Some(cache) if !self.chance.random_bool(TOOLCHAIN_CHANGES) => {
                if self.chance.random_bool(DEPENDENCIES_CHANGE) {
                    Cache {
                        dependencies: self.dependency_steps(at),
                        ..cache
                    }
                } else {
                    cache
                }
            }
            _ => Cache {
                base: Arc::clone(base),
                toolchain: self.toolchain_steps(at),
                dependencies: self.dependency_steps(at),
            },
        };
        self.cached = Some(cache.clone());
        cache
    }

    fn toolchain_steps(&mut self, at: DateTime<Utc>) -> Arc<Segment> {
        if matches!(self.tool, BuildTool::Jib | BuildTool::Ko) {
            return Segment::new(Vec::new());
        }
        let language = self.language;
        let mut file = Dockerfile::new(self, at - Duration::minutes(9));
        if file.chance().random_bool(0.2) {
            file.add(Instruction::Label(
                "maintainer=platform@corp.example".into(),
            ));
        }
        if file.chance().random_bool(0.8) {
            file.add(Instruction::Env(language.environment.into()));
        }
        file.add_leaked_credential();
        let packages = file.package_installation();
        file.add(Instruction::Run(packages));
        let tools = file.tool_installation();
        file.add(Instruction::Run(tools));
        if file.chance().random_bool(0.85) {
            let setup = file.user_setup();
            file.add(Instruction::Run(setup));
        }
        file.add(Instruction::Workdir("/app"));
        if file.chance().random_bool(0.3) {
            file.add(Instruction::User("10001:10001"));
        }
        if file.chance().random_bool(0.2) {
            file.add(Instruction::Expose(language.port));
        }
        file.finish()
    }

    fn dependency_steps(&mut self, at: DateTime<Utc>) -> Arc<Segment> {
        if matches!(self.tool, BuildTool::Jib | BuildTool::Ko) {
            return self.plain_layers(1, at);
        }
        let language = self.language;
        let install =
            language.install[usize::try_from(self.salt).unwrap_or(0) % language.install.len()];
        let mut file = Dockerfile::new(self, at - Duration::minutes(4));
        file.add(Instruction::Copy(language.lock_files, "./"));
        file.add(Instruction::Run(format!(
            "set -eux; \texport HTTPS_PROXY=http://proxy.corp.example:3128 NO_PROXY=.corp.example,localhost; \tfor attempt in 1 2 3; do \t\t{install} && break; \t\techo \"attempt $attempt failed, trying again\" >&2; \t\tsleep 15; \tdone; \tdu -sh /root/.cache 2>/dev/null || true; \trm -rf /root/.cache /tmp/* /var/tmp/*"
        )));
        file.finish()
    }

    fn own_steps(&mut self, at: DateTime<Utc>) -> Arc<Segment> {
        let language = self.language;
        let (compiles, labels) = (self.compiles_in_image, self.labels_builds);
        let (major, minor, patch) = self.version;
        let mut file = Dockerfile::new(self, at - Duration::minutes(1));
        file.add(Instruction::Copy(language.built, "/app/"));
        if compiles {
            file.add(Instruction::Run(language.compile.into()));
        }
        if labels {
            let revision = file.hex(40);
            file.add(Instruction::Label(format!(
                "org.opencontainers.image.revision={revision} org.opencontainers.image.version={major}.{minor}.{patch} org.opencontainers.image.vendor=Corp org.opencontainers.image.licenses=Proprietary org.opencontainers.image.url=https://git.corp.example/services org.opencontainers.image.documentation=https://docs.corp.example/services"
            )));
        } else {
            file.add(Instruction::Env(format!(
                "APP_VERSION={major}.{minor}.{patch}"
            )));
        }
        file.add(Instruction::Cmd(language.command));
        file.finish()
    }

    /// Steps of tools that write image layers without running commands.
    fn plain_layers(&mut self, count: usize, at: DateTime<Utc>) -> Arc<Segment> {
        let (command, created) = match self.tool {
            BuildTool::Ko => (
                "ko build ko://git.corp.example/platform/cmd/server",
                ZERO_TIME,
            ),
            _ => ("jib-maven-plugin:3.4.1", "1970-01-01T00:00:00Z"),
        };
        let created = Created::parse(created);
        let command = self.shared(command.to_owned());
        let steps = (0..count)
            .map(|_| Step {
                created,
                command: Some(Arc::clone(&command)),
                layer: Some(self.layer(&command, at, 200_000, 8)),
            })
            .collect();
        Segment::new(steps)
    }

    fn layer(&mut self, command: &str, at: DateTime<Utc>, smallest: u64, doublings: u32) -> Layer {
        let random: u64 = self.chance.random();
        Layer {
            digest: Digest::of(&[
                &self.salt.to_le_bytes(),
                &random.to_le_bytes(),
                &at.timestamp_micros().to_le_bytes(),
                command.as_bytes(),
            ]),
            size_bytes: size_bytes(&mut self.chance, smallest, doublings),
            media_type: if self.kind == ManifestKind::OciImage {
                OCI_LAYER
            } else {
                DOCKER_LAYER
            },
        }
    }

    /// Most commands of a build are equal to those of the last one; they share one copy.
    fn shared(&mut self, command: String) -> Arc<str> {
        if let Some(known) = self.commands.iter().find(|known| ***known == *command) {
            return Arc::clone(known);
        }
        let command: Arc<str> = command.into();
        if self.commands.len() == COMMANDS_KEPT {
            self.commands.remove(0);
        }
        self.commands.push(Arc::clone(&command));
        command
    }

    fn next_version(&mut self) {
        let (major, minor, patch) = self.version;
        self.version = match self.chance.random_range(0..100) {
            0 => (major + 1, 0, 0),
            1..14 => (major, minor + 1, 0),
            _ => (major, minor, patch + 1),
        };
    }

    fn tags(&mut self) -> (Vec<String>, &'static [&'static str]) {
        let (major, minor, patch) = self.version;
        let version = format!("v{major}.{minor}.{patch}");
        let commit = format!("sha-{:07x}", self.chance.random_range(0..0x1000_0000));
        match self.tagging {
            Tagging::Version => (vec![version], &["latest"]),
            Tagging::Commit => (vec![commit], &["main", "latest"]),
            Tagging::VersionAndCommit => (vec![version, commit], &["latest"]),
            Tagging::LatestOnly => (vec![], &["latest"]),
        }
    }
}

/// A list of steps under construction, each a little later than the one before.
struct Dockerfile<'a> {
    recipe: &'a mut Recipe,
    clock: DateTime<Utc>,
    steps: Vec<Step>,
}

impl<'a> Dockerfile<'a> {
    fn new(recipe: &'a mut Recipe, clock: DateTime<Utc>) -> Dockerfile<'a> {
        Dockerfile {
            recipe,
            clock,
            steps: Vec::new(),
        }
    }

    fn finish(self) -> Arc<Segment> {
        Segment::new(self.steps)
    }

    fn chance(&mut self) -> &mut Chance {
        &mut self.recipe.chance
    }

    fn add(&mut self, instruction: Instruction<'_>) {
        let (nanoseconds, layer_size) = match &instruction {
            Instruction::Run(_) => (
                self.chance().random_range(900_000_000..40_000_000_000_i64),
                Some((100_000, 10)),
            ),
            Instruction::Copy(..) => (
                self.chance().random_range(20_000_000..900_000_000),
                Some((20_000, 11)),
            ),
            Instruction::Workdir(_) if self.recipe.tool == BuildTool::BuildKit => {
                (40_000_000, Some((90, 1)))
            }
            _ => (self.chance().random_range(0..3_000_000), None),
        };
        self.clock += Duration::nanoseconds(nanoseconds);
        let command = match self.recipe.tool {
            BuildTool::Classic => self.classic(&instruction),
            _ => buildkit(&instruction),
        };
        let command = self.recipe.shared(command);
        let layer = layer_size.map(|(smallest, doublings)| {
            self.recipe.layer(&command, self.clock, smallest, doublings)
        });
        self.steps.push(Step {
            created: Some(Created::nanoseconds(self.clock, self.recipe.offset_minutes)),
            command: Some(command),
            layer,
        });
    }

    /// An instruction in the format of the classic builder, including its irregular spaces.
    fn classic(&mut self, instruction: &Instruction<'_>) -> String {
        match instruction {
            Instruction::Run(command) => format!("/bin/sh -c {command}"),
            Instruction::Copy(_, to) => {
                let hash = self.hex(64);
                format!("/bin/sh -c #(nop) COPY dir:{hash} in {to} ")
            }
            Instruction::Workdir(path) => format!("/bin/sh -c #(nop) WORKDIR {path}"),
            Instruction::Expose(port) => format!("/bin/sh -c #(nop)  EXPOSE {port}"),
            metadata => format!("/bin/sh -c #(nop)  {}", buildkit(metadata)),
        }
    }

    /// A RUN step of 400 to 700 characters; the tabs come from continued lines.
    fn package_installation(&mut self) -> String {
        let language = self.recipe.language;
        let mut command = String::from(
            "set -eux; \tapt-get update; \tapt-get install -y --no-install-recommends \t\tca-certificates \t\tcurl \t\tgnupg \t\tunzip",
        );
        for package in language.packages.split(' ') {
            let (minor, patch) = self.two_numbers();
            command.push_str(&format!(" \t\t{package}=2:{minor}.{patch}-1+deb12u1"));
        }
        command.push_str("; \tapt-get purge -y --auto-remove -o APT::AutoRemove::RecommendsImportant=false; \trm -rf /var/lib/apt/lists/* /tmp/* /var/tmp/*");
        command
    }

    /// A RUN step of 900 to 2500 characters: programs are downloaded, checked and unpacked.
    fn tool_installation(&mut self) -> String {
        let mut command = String::from(
            "set -eux; \tarch=\"$(dpkg --print-architecture)\"; \tcase \"${arch##*-}\" in \t\tamd64|arm64) ;; \t\t*) echo >&2 \"error: unsupported architecture: '$arch'\"; exit 1 ;; \tesac",
        );
        for _ in 0..self.chance().random_range(3..8) {
            let (name, url) = *pick(self.chance(), DOWNLOADS);
            let (minor, patch) = self.two_numbers();
            let hash = self.hex(64);
            command.push_str(&format!(
                "; \tcurl -fsSL --retry 3 -o /usr/local/bin/{name} \"{url}/v1.{minor}.{patch}/{name}-linux-$arch\"; \techo \"{hash} */usr/local/bin/{name}\" | sha256sum -c -; \tchmod +x /usr/local/bin/{name}; \t{name} --version"
            ));
        }
        command
    }

    fn user_setup(&mut self) -> String {
        match self.chance().random_range(0..10) {
            0 => "curl -sSL https://get.corp.example/agent/install.sh | sh".into(),
            1 => "mkdir -p /app/data && chmod -R 777 /app /var/log && useradd app".into(),
            _ => "groupadd --system --gid 10001 app && useradd --system --uid 10001 --gid app --home-dir /app --shell /usr/sbin/nologin app && install -d -o app -g app -m 0750 /app /var/run/app /var/log/app /var/cache/app && curl -fsSL https://pki.corp.example/root.crt -o /usr/local/share/ca-certificates/corp-root.crt && curl -fsSL https://pki.corp.example/issuing.crt -o /usr/local/share/ca-certificates/corp-issuing.crt && update-ca-certificates && find / -xdev -perm /6000 -type f -exec chmod a-s {} + && rm -rf /usr/share/doc /usr/share/man /usr/share/info".into(),
        }
    }

    fn two_numbers(&mut self) -> (u32, u32) {
        let chance = self.chance();
        (chance.random_range(0..30), chance.random_range(0..12))
    }

    /// Build arguments and variables appear in histories with their values.
    /// These are random and not valid anywhere.
    fn add_leaked_credential(&mut self) {
        let instruction = match self.chance().random_range(0..100) {
            0..2 => Instruction::Env(format!(
                "DATABASE_URL=postgres://app:{}@db.internal:5432/app",
                self.alphanumeric(16)
            )),
            2..4 => Instruction::Arg(format!("NPM_TOKEN=npm_{}", self.alphanumeric(36))),
            4..5 => Instruction::Env(format!("AWS_SECRET_ACCESS_KEY={}", self.alphanumeric(40))),
            5..6 => Instruction::Env(format!("SMTP_PASSWORD={}", self.alphanumeric(12))),
            6..7 => Instruction::Run(format!(
                "git clone --depth 1 https://oauth2:glpat-{}@git.corp.example/platform/shared.git /opt/shared",
                self.alphanumeric(20)
            )),
            _ => return,
        };
        self.add(instruction);
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits)
            .map(|_| char::from_digit(self.chance().random_range(0..16), 16).unwrap_or('0'))
            .collect()
    }

    fn alphanumeric(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| char::from_digit(self.chance().random_range(0..36), 36).unwrap_or('0'))
            .collect()
    }
}

/// An instruction in the format of BuildKit.
fn buildkit(instruction: &Instruction<'_>) -> String {
    match instruction {
        Instruction::Run(command) => format!("RUN /bin/sh -c {command} # buildkit"),
        Instruction::Copy(from, to) => format!("COPY {from} {to} # buildkit"),
        Instruction::Env(setting) => format!("ENV {setting}"),
        Instruction::Arg(argument) => format!("ARG {argument}"),
        Instruction::Label(label) => format!("LABEL {label}"),
        Instruction::Workdir(path) => format!("WORKDIR {path}"),
        Instruction::Expose(port) => format!("EXPOSE map[{port}/tcp:{{}}]"),
        Instruction::User(user) => format!("USER {user}"),
        Instruction::Cmd(words) => format!("CMD [{words}]"),
    }
}

/// A size between the smallest and twice that, doubled up to this many times:
/// small layers are as frequent as large ones; uses integers only.
pub(super) fn size_bytes(chance: &mut Chance, smallest: u64, doublings: u32) -> u64 {
    let low = smallest << chance.random_range(0..=doublings);
    chance.random_range(low..low * 2)
}

pub(super) fn pick<'a, T>(chance: &mut Chance, from: &'a [T]) -> &'a T {
    #[expect(
        clippy::expect_used,
        reason = "only called with constant, non-empty tables"
    )]
    from.choose(chance).expect("a table has entries")
}
