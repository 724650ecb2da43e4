//! The rules, as data.
//!
//! A pattern with a capture group finds a secret: the value of the group that matched. A
//! [`Reading`] does what a pattern cannot express. If several rules find the same secret, the first
//! one counts, so special rules come before the general one.

use super::{Reading, Rule, Severity};

/// Increased with every change that can change findings: findings of another version may be
/// outdated.
pub const RULES_VERSION: i32 = 1;

/// All rules.
pub static RULES: [Rule; 19] = [
    Rule {
        id: "private-key",
        severity: Severity::High,
        title: "Private key in a build command",
        why: "everyone who can pull the image or read its history has the key",
        patterns: &[
            r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z))",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "aws-access-key",
        severity: Severity::High,
        title: "AWS access key",
        why: "with its secret key, which is often close to it, it gives access to the account",
        patterns: &[r"\b((?:AKIA|ASIA)[A-Z0-9]{16})\b"],
        reading: Reading::Pattern,
    },
    Rule {
        id: "huawei-access-key",
        severity: Severity::High,
        title: "Huawei Cloud access key",
        why: "access key and secret key give access to the account",
        patterns: &[
            r#"(?i)\b(?:HUAWEI(?:CLOUD)?|HWCLOUD|HCLOUD|HWC|HW|OBS|SWR|OTC)(?:_[A-Z]+)*_(?:AK|SK|ACCESS_?KEY(?:_ID)?|SECRET_?(?:ACCESS_?)?KEY)["']?[=:]\s*["']?([A-Z0-9]{20,40})\b"#,
            r#"(?i)\bobsutil\s+config\b[^;&|\n]*?\s-k[= ]["']?([A-Z0-9]{20,40})\b"#,
            r#"(?i)\b(?:ak|access_?key)["']?[=:]\s*["']?([A-Z0-9]{20})\b"#,
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "github-token",
        severity: Severity::High,
        title: "GitHub token",
        why: "it gives access to the repositories of its owner",
        patterns: &[r"\b(gh[opusr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"],
        reading: Reading::Pattern,
    },
    Rule {
        id: "gitlab-token",
        severity: Severity::High,
        title: "GitLab token",
        why: "it gives access to the projects of its owner",
        patterns: &[r"\b(gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[A-Za-z0-9_.\-]{20,})"],
        reading: Reading::Pattern,
    },
    Rule {
        id: "npm-token",
        severity: Severity::High,
        title: "npm token",
        why: "it can publish packages that others install",
        patterns: &[r"\b(npm_[A-Za-z0-9]{36})\b"],
        reading: Reading::Pattern,
    },
    Rule {
        id: "slack-token",
        severity: Severity::High,
        title: "Slack token or webhook",
        why: "it can read or write messages in the workspace",
        patterns: &[
            r"\b(xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[0-9]-[A-Za-z0-9\-]{10,})",
            r"\bhooks\.slack\.com/services/([A-Za-z0-9]+/[A-Za-z0-9]+/[A-Za-z0-9]+)",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "google-api-key",
        severity: Severity::High,
        title: "Google API key",
        why: "others can use it at the owner's expense",
        patterns: &[r"\b(AIza[A-Za-z0-9_\-]{35})"],
        reading: Reading::Pattern,
    },
    Rule {
        id: "service-token",
        severity: Severity::High,
        title: "Token of a known service, or a JSON Web Token",
        why: "everyone who can pull the image or read its history has the token",
        patterns: &[
            r"\b(pypi-AgE[A-Za-z0-9_\-]{16,}|dckr_pat_[A-Za-z0-9_\-]{20,}|hf_[A-Za-z0-9]{30,}|[rs]k_live_[A-Za-z0-9]{16,}|SG\.[A-Za-z0-9_\-]{20,}\.[A-Za-z0-9_\-]{20,}|eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]+)",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "authorization-header",
        severity: Severity::High,
        title: "Bearer token or basic authentication in a request",
        why: "everyone who can pull the image or read its history has the token",
        patterns: &[
            r#"(?i)\bauthorization["']?\s*[:=]\s*["']?(?:bearer|basic|token)\s+([A-Z0-9._~+/=\-]{6,})"#,
            r"(?i)\bbearer\s+([A-Z0-9._~+/=\-]{20,})",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "password-argument",
        severity: Severity::High,
        title: "Password in program arguments",
        why: "everyone who can pull the image or read its history has the password",
        patterns: &[
            r#"(?i)\bcurl\b(?:[^;&|\n]|&[^&;|\n])*?\s(?:-u|--user|--proxy-user)[= ]?["']?[^\s:"'$]+:([^\s"']+)"#,
            r#"(?i)\bsshpass\s+-p\s*["']?([^\s"';&|]+)"#,
            r#"(?i)\b(?:docker|podman|buildah|crane|helm(?:\s+registry)?)\s+login\b[^;&|\n]*?\s-p[= ]?["']?([^\s"';&|]+)"#,
            r#"(?i)\becho\s+(?:-\S+\s+)*["']?[a-z0-9_.\-]+:([^\s"':|]+)["']?\s*\|\s*(?:sudo\s+)?chpasswd"#,
            r#"(?i)\s--[a-z\-]*(?:password|passwd|passphrase|token|secret|api-?key)\s+["']?([^\s"';&|\-][^\s"';&|]*)"#,
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "url-password",
        severity: Severity::High,
        title: "URL with a password or token",
        why: "everyone who can pull the image or read its history has the password",
        patterns: &[
            r#"(?i)\b[a-z][a-z0-9+.\-]{1,20}://(?:[^\s/:@"'`?#]*:([^\s/@"'`]+)|([a-z0-9_\-]{20,}))@"#,
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "named-secret",
        severity: Severity::High,
        title: "Credential in a variable, argument or setting",
        why: "values of ENV, ARG and RUN stay in the image's history, even if later steps remove them",
        // Up to the value; the group is the rest of the name after a word like `password`.
        patterns: &[
            r#"(?i)(?:^|[^a-z0-9_.$\{\-])[a-z0-9_.\-]*(?:password|passwd|passphrase|secret|token|credential|(?:api|access|private|ssh|deploy|encryption|encrypt|signing|master|storage|account|auth|client|license|service|subscription)[_\-]?key|\bauth|_auth|\bpass|[_\-.]pass|[_\-.]pwd)(s?(?:[_.\-][a-z0-9_.\-]*|[0-9]*))["']?(?:\s{0,2}(?:=>|:=|[=:])\s{0,2})"#,
        ],
        reading: Reading::NamedValue,
    },
    Rule {
        id: "pipe-to-shell",
        severity: Severity::Medium,
        title: "Remote script piped to a shell",
        why: "an attacker who controls the server or the connection can run programs in the build",
        patterns: &[
            r#"(?i)\b(?:curl|wget)\s(?:[^;&\n]|&[^&;\n])*?\|\s*(?:sudo\s+(?:-\S+\s+)*)?(?:/\S*/)?(?:(?:ba|da|z|k|a)?sh|python[0-9.]*|perl|ruby|node|php)(?:[\s;"')&|]|\z)"#,
            r#"(?i)\b(?:(?:ba|da|z|k|a)?sh(?:\s+-\S+)*|eval|source)\s+["']?(?:<\(|\$\(|`)\s*(?:curl|wget)\s"#,
            r"(?i)\b(?:iwr|irm|invoke-webrequest|invoke-restmethod)\b[^;\n]*\|\s*(?:iex|invoke-expression)\b",
            r"(?i)\b(?:iex|invoke-expression)\b[^;\n]*?(?:downloadstring|iwr|irm|invoke-webrequest)",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "unverified-download",
        severity: Severity::Medium,
        title: "Download without certificate or signature check",
        why: "an attacker in the network can replace what is installed",
        patterns: &[
            r"\bcurl\s(?:(?:[^;&|\n]|&[^&;|\n])*?\s)?(?:-[fsSLvgGiIjJlMNnOpqRaB0-9#]*k|--insecure\b|--proxy-insecure\b)",
            r#"(?i)--no-check-certificate|\s--trusted-host[= ]|\bstrict-ssl[\s=]+["']?false|\bhttp\.sslverify[\s=]+["']?(?:false|0)\b|\bGIT_SSL_NO_VERIFY=["']?(?:1|true)|\bNODE_TLS_REJECT_UNAUTHORIZED=["']?0|\bPYTHONHTTPSVERIFY=["']?0|\bverify-peer["']?[\s=]+["']?false"#,
            r"\s--(?:allow-unauthenticated|allow-untrusted|nogpgcheck|no-gpg-checks|force-yes)\b",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "world-writable",
        severity: Severity::Medium,
        title: "World-writable files",
        why: "every process in the container can replace them, whatever its user",
        // A directory with the sticky bit, such as /tmp, is meant to be world-writable.
        patterns: &[
            r"\bchmod\s+(?:-[A-Za-z\-]+\s+)*(?:0?[0246]?[0-7]{2}[2367]\b|(?:[ugoa]*[+=\-][rwxXst]*,)*[ugo]*[oa][ugoa]*[+=][rxXst]*w)|\s--chmod=0?[0246]?[0-7]{2}[2367]\b",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "add-url",
        severity: Severity::Low,
        title: "ADD of a URL",
        why: "the content is not verified with a checksum and may differ between builds",
        patterns: &[
            r"^(?:\S+ \S+ #\(nop\)\s+|cmd /S /C #\(nop\)\s+)?ADD\s+(?:--(?:chown|chmod|link|keep-git-dir)\S*\s+)*(?:[^\s\-]\S*\s+)*?(?:https?|git|ftp)://",
        ],
        reading: Reading::Pattern,
    },
    Rule {
        id: "unpinned-install",
        severity: Severity::Info,
        title: "Packages installed without a version",
        why: "the same build can produce another image later; packages of the distribution are not reported, because old versions are removed from its servers",
        patterns: &[
            r"\b(?:pip[0-9.]*|pipx|uv\s+pip|npm|yarn\s+global|pnpm|go)\s+(?:install|i|add)\s+",
        ],
        reading: Reading::Install,
    },
    Rule {
        id: "latest-base",
        severity: Severity::Info,
        title: "Base image without a fixed version",
        why: "the same build can produce another image later; a history only shows the base if a label names it",
        patterns: &[
            r#"\borg\.opencontainers\.image\.base\.name["']?=["']?(?:[^\s"'@]+:latest|(?:[^\s"'@/]+/)*[^\s"'@:/]+)(?:[\s"']|\z)"#,
        ],
        reading: Reading::Pattern,
    },
];
