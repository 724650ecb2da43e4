//! The configuration file with the real process: precedence, error messages, and `config show`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::support::config_file::ConfigFile;
use super::support::program::{Finished, Program};
use super::support::{assert_contains, assert_lacks, cases};

/// A secret that must not be in any output.
const SECRET: &str = "secret-of-the-file-not-to-be-shown";

const TWO_SOURCES: &str = "\
max_in_flight = 10
database_url = 'postgresql://me@database.test/registry'

[[source]]
name = 'prod'
region = 'cn-north-4'
project_id = 'project-of-prod'
instances = 'all'
max_in_flight = 20
[source.credentials]
access_key = 'AKOFPROD'
secret_key_env = 'PROD_SECRET_KEY'

[[source]]
name = 'test'
endpoint = 'https://swr.test'
project_id = 'project-of-test'
instances = ['one', 'two']
";

impl ConfigFile {
    /// `config` with this file.
    fn config(&self, action: &str) -> Program {
        Program::new(&["config", action, "--config", &self.path()]).hides(SECRET)
    }

    /// Runs `config check`, and returns the errors in the file: `line: text`.
    async fn mistakes(&self) -> Vec<String> {
        let finished = self.config("check").code(2).await;
        let start = format!("{}:", self.path());
        let lines = finished.error().lines().filter_map(|line| {
            let line = line.trim().trim_start_matches("error: ");
            line.strip_prefix(&start).map(str::to_owned)
        });
        lines.collect()
    }
}

/// The result of `config show`: value and origin by source and key, without the name of the file.
async fn shown(
    file: &ConfigFile,
    program: Program,
) -> BTreeMap<(String, String), (String, String)> {
    let finished = program.args(&["--format", "json"]).code(0).await;
    let rows: Vec<BTreeMap<String, Option<String>>> =
        serde_json::from_str(&finished.stdout).unwrap();
    let text = |row: &BTreeMap<String, Option<String>>, name: &str| {
        row.get(name).cloned().flatten().unwrap_or_default()
    };
    rows.iter()
        .map(|row| {
            let origin = text(row, "origin").replace(&file.path(), "");
            (
                (text(row, "source"), text(row, "key")),
                (text(row, "value"), origin),
            )
        })
        .collect()
}

fn get<'a>(
    rows: &'a BTreeMap<(String, String), (String, String)>,
    source: &str,
    key: &str,
) -> (&'a str, &'a str) {
    let row = rows.get(&(source.to_owned(), key.to_owned()));
    let (value, origin) = row.unwrap_or_else(|| panic!("no {key} of `{source}`: {rows:?}"));
    (value, origin)
}

#[tokio::test]
async fn a_flag_wins_over_a_variable_a_variable_over_the_file_and_the_file_over_what_is_built_in() {
    let file = ConfigFile::new(TWO_SOURCES);
    let rows = shown(&file, file.config("show")).await;
    assert_eq!(get(&rows, "prod", "max_attempts"), ("8", "default"));
    assert_eq!(get(&rows, "test", "max_in_flight"), ("10", ":1"));
    assert_eq!(get(&rows, "prod", "max_in_flight"), ("20", ":9"));
    assert_eq!(get(&rows, "prod", "region"), ("cn-north-4", ":6"));
    assert_eq!(get(&rows, "test", "instances"), ("one,two", ":18"));

    let set = file.config("show").env("SWR_MAX_IN_FLIGHT", "30");
    let rows = shown(&file, set).await;
    for source in ["prod", "test"] {
        let row = get(&rows, source, "max_in_flight");
        assert_eq!(row, ("30", "SWR_MAX_IN_FLIGHT"));
    }
    let flag = file
        .config("show")
        .env("SWR_MAX_IN_FLIGHT", "30")
        .args(&["--max-in-flight", "40"]);
    let rows = shown(&file, flag).await;
    assert_eq!(
        get(&rows, "prod", "max_in_flight"),
        ("40", "--max-in-flight")
    );
}

#[tokio::test]
async fn the_region_of_a_source_wins_over_the_endpoint_of_all() {
    let file = ConfigFile::new(
        "endpoint = 'https://swr.test'\n\
         [[source]]\nname = 'a'\nproject_id = 'p'\ninstances = ['one']\n\
         [[source]]\nname = 'b'\nproject_id = 'p'\ninstances = ['two']\nregion = 'r'\n",
    );
    let program = file.config("check").env("SWR_AUTH_TOKEN", "some-token");
    let said = program.code(0).await.stdout;
    let expected = [
        "a: instance one of project p at https://swr.test/, ",
        "b: instance two of project p at https://swr-api.r.myhuaweicloud.com/, ",
    ];
    for text in expected {
        assert!(said.contains(text), "no `{text}` in {said}");
    }
}

#[tokio::test]
async fn one_of_several_sources_is_shown_with_its_own_settings() {
    let file = ConfigFile::new(TWO_SOURCES);
    for (source, max_in_flight) in [("prod", ("20", ":9")), ("test", ("10", ":1"))] {
        let rows = shown(&file, file.config("show").args(&["--source", source])).await;
        assert_eq!(get(&rows, "", "max_in_flight"), max_in_flight);
    }
}

#[tokio::test]
async fn a_switch_of_the_file_can_be_turned_off_and_an_empty_variable_is_none() {
    let file = ConfigFile::new(
        "redact_commands = true\nlog = 'error'\n\
         [[source]]\nregion = 'a'\nproject_id = 'b'\ninstances = 'c'\n",
    );
    let rows = shown(&file, file.config("show")).await;
    assert_eq!(get(&rows, "", "redact_commands"), ("true", ":1"));
    assert_eq!(get(&rows, "", "log"), ("error", ":2"));

    let off = file.config("show").env("SWR_SYNC_REDACT_COMMANDS", "0");
    let rows = shown(&file, off).await;
    let row = get(&rows, "", "redact_commands");
    assert_eq!(row, ("false", "SWR_SYNC_REDACT_COMMANDS"));

    let empty = file
        .config("show")
        .env("SWR_REGION", "")
        .env("SWR_SYNC_REDACT_COMMANDS", "");
    let rows = shown(&file, empty).await;
    assert_eq!(get(&rows, "", "region"), ("a", ":4"));
    assert_eq!(get(&rows, "", "redact_commands"), ("true", ":1"));
}

#[tokio::test]
async fn the_only_source_can_be_made_another_by_flags_and_variables() {
    let file = ConfigFile::new("[[source]]\nregion = 'a'\nproject_id = 'b'\ninstances = ['c']\n");
    let program = file
        .config("check")
        .env("SWR_AUTH_TOKEN", "some-token")
        .env("SWR_REGION", "another-region")
        .args(&["--instance-id", "another-instance"]);
    let said = program.code(0).await.stdout;
    assert_contains(
        &said,
        "instance another-instance of project b at https://swr-api.another-region.myhuaweicloud.com/",
    );
}

#[tokio::test]
async fn the_variable_names_the_file_and_a_file_without_sources_leaves_them_to_the_environment() {
    let file = ConfigFile::new("database_url = 'postgresql://me@database.test/registry'\n");
    let program = Program::new(&["config", "check"])
        .env("SWR_SYNC_CONFIG", file.path())
        .env("SWR_AUTH_TOKEN", "some-token");
    program
        .code(2)
        .await
        .says(&["has no [[source]], and flags and variables select no registry"]);

    let program = Program::new(&["config", "check"])
        .env("SWR_SYNC_CONFIG", file.path())
        .env("SWR_AUTH_TOKEN", "some-token")
        .env("SWR_REGION", "a")
        .env("SWR_PROJECT_ID", "b")
        .env("SWR_INSTANCE_ID", "all");
    let said = program.code(0).await.stdout;
    assert_contains(&said, "registry at database.test:5432");
    assert_contains(&said, "all instances of project b");
}

#[tokio::test]
async fn flag_and_variable_win_over_the_database_of_the_file() {
    let file = ConfigFile::new(TWO_SOURCES);
    let database = |rows: &BTreeMap<(String, String), (String, String)>| {
        let (value, origin) = get(rows, "", "database");
        format!("{value}, {origin}")
    };
    let rows = shown(&file, file.config("show")).await;
    assert_eq!(database(&rows), "registry at database.test:5432, :2");

    let url = format!("postgresql://me:{SECRET}@variable.test/registry");
    let rows = shown(&file, file.config("show").env("DATABASE_URL", &url)).await;
    assert_eq!(
        database(&rows),
        "registry at variable.test:5432, DATABASE_URL"
    );

    let in_file = file.add("url", &url.replace("variable", "in-file"));
    let set = file.config("show").env("DATABASE_URL_FILE", &in_file);
    let rows = shown(&file, set).await;
    assert_eq!(
        database(&rows),
        "registry at in-file.test:5432, DATABASE_URL_FILE"
    );

    let flag = file
        .config("show")
        .env("DATABASE_URL", &url)
        .args(&["--database-url", "postgresql://me@flag.test/registry"]);
    let rows = shown(&file, flag).await;
    assert_eq!(
        database(&rows),
        "registry at flag.test:5432, --database-url"
    );

    let text = TWO_SOURCES.replace(
        "database_url = 'postgresql://me@database.test/registry'",
        &format!("database_url_file = '{in_file}'"),
    );
    let other = ConfigFile::new(&text);
    let rows = shown(&other, other.config("show")).await;
    assert_eq!(database(&rows), "registry at in-file.test:5432, :2");
}

/// Every error in a file is reported with its line and key, and without the value.
#[tokio::test]
async fn each_mistake_is_told_with_its_line() {
    let source = "[[source]]\nregion = 'a'\nproject_id = 'b'\ninstances = 'all'\n";
    let credentials = format!("{source}[source.credentials]\n");
    let cases: [(String, &str); 40] = cases! {
        "max_in_flihgt = 8".into() => "1: unknown key `max_in_flihgt`; did you mean `max_in_flight`?";
        "zzz = 8".into() => "1: unknown key `zzz`";
        "dry_run = true".into() => "1: unknown key `dry_run`";
        "config = 'a'".into() => "1: unknown key `config`";
        "[sources]".into() => "1: unknown key `sources`; did you mean `source`?";
        "\nmax_in_flight = 5000".into() => "2: `max_in_flight`: 5000 is not in 1..=1024";
        "max_in_flight = '8'".into() => "1: `max_in_flight` must be a whole number, without quotes";
        "max_requests_per_second = 'a'".into() => "1: `max_requests_per_second` must be a number, without quotes";
        "max_requests_per_second = -1".into() => "1: `max_requests_per_second`: expected 0 or more";
        "max_requests_per_second = nan".into() => "1: `max_requests_per_second`: expected 0 or more";
        "max_requests_per_second = inf".into() => "1: `max_requests_per_second`: expected 0 or more";
        "request_timeout = '2y'".into() => "1: `request_timeout`: expected a year at most";
        "redact_commands = 1".into() => "1: `redact_commands` must be true or false";
        "connect_timeout = 10".into() => "1: `connect_timeout` must be a string, in quotes";
        "connect_timeout = '10'".into() => "1: `connect_timeout`: time unit needed";
        "log_format = 'yaml'".into() => "1: `log_format`: it must be one of text, json";
        "log = 'loud'".into() => "1: `log`: expected off, error,";
        "shard = '0/3'".into() => "1: `shard`: shards are numbered from 1: the first is 1/3";
        "if_locked = 'sometimes'".into() => "1: `if_locked`: expected";
        "max_duration = '0s'".into() => "1: `max_duration`: expected more than zero";
        "project_id = 'a'".into() => "1: `project_id` belongs in a [[source]]";
        "[source]\nname = 'a'".into() => "1: a source begins with [[source]]";
        "source = ['a']".into() => "1: a source begins with [[source]]";
        format!("{source}max_parallel_instances = 2") => "5: `max_parallel_instances` applies to all sources";
        format!("{source}regoin = 'a'") => "5: unknown key of a source `regoin`; did you mean `region`?";
        format!("{source}name = 'a b'") => "5: `name` must be a string of 1 to 63 letters";
        "[[source]]\ninstances = []".into() => "2: `instances` must be a list of ids, or \"all\"";
        "[[source]]\ninstances = ['all', 'a']".into() => "2: `instances` must be a list of ids, or \"all\"";
        "[[source]]\ninstances = 'a,b'".into() => "2: `instances` must be a list of ids, or \"all\"";
        "[[source]]\ninstances = [1]".into() => "2: `instances` must be a list of strings";
        format!("{credentials}secret_kye = '{SECRET}'") => "6: unknown key of credentials `secret_kye`; did you mean `secret_key`?";
        format!("{credentials}secret_key = ''") => "6: `secret_key` must be a string that is not empty";
        format!("{credentials}secret_key = ['{SECRET}']") => "6: `secret_key` must be a string that is not empty";
        format!("{credentials}secret_key = '{SECRET}'\nsecret_key_env = 'A'") => "7: both `secret_key` and `secret_key_env` are set";
        format!("{credentials}use = 'magic'") => "6: `use`: must be one of environment, profile, pod-identity, metadata";
        format!("{source}credentials = 'a'") => "5: credentials must be a table";
        format!("database_url = 'postgresql://me:{SECRET}@host/name'") => "1: `database_url` contains a password: set `database_url_file` to a file";
        "database_url = 'a'\ndatabase_url_file = 'b'".into() => "2: both `database_url` and `database_url_file` are set";
        format!("secret_key = '{SECRET}") => "1: ";
        "max_in_flight = 1\nmax_in_flight = 2".into() => "2: duplicate key";
    };
    for (text, expected) in cases {
        let mistakes = ConfigFile::new(&text).mistakes().await;
        let is_told = mistakes.iter().any(|mistake| mistake.starts_with(expected));
        assert!(is_told, "{text}\n{expected}\n{mistakes:#?}");
    }
}

#[tokio::test]
async fn several_sources_have_each_a_name_and_instances_of_their_own() {
    let text = "\
[[source]]
name = 'a'
project_id = 'p'
instances = ['one', 'two']
region = 'r'

[[source]]
name = 'a'
region = 'r'
instances = ['two']

[[source]]
project_id = 'q'
";
    let mistakes = ConfigFile::new(text).mistakes().await;
    let expected = [
        "7: the source in line 1 has the same name `a`",
        "7: with several sources, each needs `project_id`",
        "10: line 4 has the same instance `two`",
        "12: with several sources, each needs `instances`",
        "12: with several sources, each needs `region` or `endpoint`",
        "12: with several sources, each needs a `name`",
    ];
    assert_eq!(mistakes, expected);

    let text = "\
[[source]]
name = 'a'
region = 'r'
project_id = 'p'
instances = 'all'

[[source]]
name = 'b'
region = 'r'
project_id = 'p'
instances = ['one']
";
    let mistakes = ConfigFile::new(text).mistakes().await;
    let expected =
        "7: the source of line 1 has the same project, and one of the two has all instances";
    assert_eq!(mistakes, [expected]);
}

#[tokio::test]
async fn a_file_with_a_secret_is_for_its_owner_and_no_file_for_everybody_to_write() {
    let with_secret = format!(
        "[[source]]\nregion = 'a'\nproject_id = 'b'\ninstances = 'all'\n\
         [source.credentials]\ntoken = '{SECRET}'\n"
    );
    let check = async |text: &str, mode: u32| -> Finished {
        let file = ConfigFile::new(text).mode(mode);
        file.config("check").run().await
    };
    check(&with_secret, 0o600).await.code(0);
    check(&with_secret, 0o640).await.code(0);
    let everybody = check(&with_secret, 0o644).await.code(2);
    everybody.says(&[
        "toml:6: there is a secret in this line, and every user can read the file (mode 0644): `chmod 0600`",
    ]);
    let elsewhere = with_secret.replace(&format!("token = '{SECRET}'"), "token_env = 'HOME'");
    let without = check(&elsewhere, 0o644).await;
    assert_lacks(&without.stderr, "mode");
    let writable = check(&elsewhere, 0o666).await.code(2);
    writable.says(&["toml: every user can write to it (mode 0666)"]);
}

#[tokio::test]
async fn what_is_of_one_registry_does_not_fit_a_file_of_several() {
    let file = ConfigFile::new(TWO_SOURCES);
    for variable in ["SWR_REGION", "SWR_ENDPOINT", "SWR_PROJECT_ID"] {
        let program = file.config("check").env(variable, "https://elsewhere.test");
        let expected = format!("{variable} applies to one registry, but");
        program
            .code(2)
            .await
            .says(&[&expected, "has 2 sources (prod, test)", "omit"]);
    }
    let program = file.config("check").args(&["--project-id", "a"]);
    program
        .code(2)
        .await
        .says(&["--project-id applies to one registry"]);
}

#[tokio::test]
async fn a_command_can_be_about_some_of_the_sources_and_instances() {
    let file = ConfigFile::new(TWO_SOURCES);
    let check = || {
        let program = file.config("check").env("SWR_AUTH_TOKEN", "some-token");
        program.secret("PROD_SECRET_KEY", SECRET)
    };
    let sources = async |program: Program| -> Vec<String> {
        let said = program.code(0).await.stdout;
        let lines = said.lines().filter_map(|line| line.strip_prefix("source"));
        lines
            .map(|line| line.split(" of project").next().unwrap().trim().to_owned())
            .collect()
    };
    let all = ["prod: all instances", "test: instances one, two"];
    assert_eq!(sources(check()).await, all);
    assert_eq!(sources(check().env("SWR_INSTANCE_ID", "all")).await, all);
    let test = sources(check().args(&["--source", "test"])).await;
    assert_eq!(test, all[1..]);
    let both = sources(check().args(&["--source", "test,prod"])).await;
    assert_eq!(both, all);
    let listed = sources(check().args(&["--instance-id", "two"])).await;
    assert_eq!(listed, ["test: instance two"]);
    // It may be one of the instances that only the project's list has.
    let asked = sources(check().args(&["--instance-id", "two,three"])).await;
    assert_eq!(
        asked,
        ["prod: of all instances two, three", "test: instance two"]
    );

    let unknown = check().args(&["--source", "tset"]).code(2).await;
    unknown.says(&["has no source `tset`", "hint: did you mean `test`?"]);
    let elsewhere = check().args(&["--source", "test", "--instance-id", "three"]);
    elsewhere.code(2).await.says(&["has the instance three"]);
    let program = Program::new(&["config", "check", "--source", "a"]);
    program
        .code(2)
        .await
        .says(&["without a configuration file there is no source `a`"]);
}

#[tokio::test]
async fn check_tells_all_that_is_missing_and_asks_nobody() {
    let file = ConfigFile::new(&TWO_SOURCES.replace(
        "[[source]]\nname = 'test'",
        "[[source]]\nname = 'lost'\nregion = 'r'\nproject_id = 'p'\ninstances = 'all'\n\
         [source.credentials]\naccess_key = 'a'\nsecret_key_file = '/nowhere/secret'\n\
         [[source]]\nname = 'test'",
    ));
    let program = file.config("check").env("SWR_AUTH_TOKEN", "some-token");
    program.code(2).await.says(&[
        "2 settings are missing or wrong",
        "source prod:",
        "secret_key_env names PROD_SECRET_KEY, which is not set",
        "source lost: cannot read the file /nowhere/secret of secret_key_file",
    ]);

    // Nothing listens at either address.
    let file = ConfigFile::new(TWO_SOURCES);
    let program = file
        .config("check")
        .secret("PROD_SECRET_KEY", SECRET)
        .env("SWR_METADATA_ENDPOINT", "http://nowhere.test");
    let said = program.code(0).await.stdout;
    let expected = [
        "with an access key in the configuration file",
        "with temporary keys of the metadata service at http://nowhere.test",
    ];
    for text in expected {
        assert!(said.contains(text), "no `{text}` in {said}");
    }
}

#[tokio::test]
async fn show_has_no_secret() {
    let text = format!(
        "[[source]]\nregion = 'a'\nproject_id = 'b'\ninstances = 'all'\n\
         endpoint = 'https://me:{SECRET}@swr.test'\n\
         [source.credentials]\naccess_key = 'AKOFTHEFILE'\nsecret_key = '{SECRET}'\nsecurity_token = '{SECRET}'\n"
    );
    let file = ConfigFile::new(&text);
    for format in ["table", "csv", "json"] {
        let program = file.config("show").args(&["--format", format]);
        program.code(0).await;
    }
    let rows = shown(&file, file.config("show")).await;
    assert_eq!(get(&rows, "", "credentials.secret_key"), ("***", ":8"));
    assert_eq!(
        get(&rows, "", "credentials.access_key"),
        ("AKOFTHEFILE", ":7")
    );
    assert_eq!(get(&rows, "", "endpoint"), ("***", ":5"));
    // The error of a failed command does not show it, either.
    let program = Program::new(&["sync", "--config", &file.path()]).hides(SECRET);
    program.code(2).await.says(&[
        "the endpoint must consist of scheme and host, without user, password, path or query",
    ]);
}

#[tokio::test]
async fn without_a_file_show_tells_of_flags_and_variables() {
    let program = Program::new(&["config", "show"])
        .env("SWR_REGION", "cn-north-4")
        .secret("HUAWEICLOUD_SDK_AK", "AKOFTHEENVIRONMENT")
        .secret("HUAWEICLOUD_SDK_SK", SECRET)
        .args(&["--project-id", "p"]);
    let rows = shown(&ConfigFile::new(""), program).await;
    assert_eq!(get(&rows, "", "region"), ("cn-north-4", "SWR_REGION"));
    assert_eq!(get(&rows, "", "project_id"), ("p", "--project-id"));
    let (credentials, origin) = get(&rows, "", "credentials");
    assert_eq!(
        credentials,
        "an access key in HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK"
    );
    assert_eq!(origin, "environment");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told_and_the_schema_needs_none() {
    let program = Program::new(&["sync", "--config", "/nowhere/swr-sync.toml"]);
    program
        .code(2)
        .await
        .says(&["cannot read the configuration file /nowhere/swr-sync.toml: No such file"]);
    let program = Program::new(&["config", "schema"]).env("SWR_SYNC_CONFIG", "/nowhere");
    let schema: Value = serde_json::from_str(&program.code(0).await.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
}

#[tokio::test]
async fn the_example_is_in_order() {
    let secrets = ConfigFile::new("");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/swr-sync.example.toml");
    let text = std::fs::read_to_string(example).unwrap();
    let url = format!("postgresql://me:{SECRET}@database.test/registry");
    let text = text
        .replace("/run/secrets/database-url", &secrets.add("url", &url))
        .replace("/run/secrets/prod-secret-key", &secrets.add("key", SECRET));
    let file = ConfigFile::new(&text).mode(0o644);
    let program = file
        .config("check")
        .env("PROD_ACCESS_KEY", "AKOFPROD")
        .env("SWR_AUTH_TOKEN", "some-token");
    let said = program.code(0).await.stdout;
    assert_contains(&said, "prod: all instances of project 0123456789abcdef");
    assert_contains(&said, "registry at database.test:5432");
}
