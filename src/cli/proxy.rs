//! The proxies in the environment. The HTTP library ignores a proxy URL that it cannot parse, and
//! connects directly instead: so the variables are checked before a client is created.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::exit::{Exit, Failure};

/// Of each pair, the first variable that is set is used.
const VARIABLES: [[&str; 2]; 3] = [
    ["ALL_PROXY", "all_proxy"],
    ["HTTP_PROXY", "http_proxy"],
    ["HTTPS_PROXY", "https_proxy"],
];

/// Fails if a request would bypass a proxy. A value may contain a password, so it is not repeated.
pub(super) fn check() -> Result<(), Failure> {
    for names in VARIABLES {
        let set = names.map(std::env::var_os);
        let Some(index) = set
            .iter()
            .position(|value| value.as_ref().is_some_and(|value| !value.is_empty()))
        else {
            continue;
        };
        let name = names[index];
        let failed = |what: &str, hint: &str| {
            let text = format!("cannot use the proxy in {name}: {what}");
            Err(Failure::new(Exit::Usage, text).hint(hint))
        };
        if index > 0 && set[0].is_some() {
            let what = format!("{} is also set, and empty", names[0]);
            return failed(&what, "leave one of them unset");
        }
        let value = set[index].as_ref().and_then(|value| value.to_str());
        if !value.is_some_and(is_proxy) {
            return failed(
                "it is not the URL of an HTTP proxy",
                "write it as http://user:password@host:3128, with special characters in user and \
                             password percent-encoded; SOCKS is not supported",
            );
        }
        if std::env::var_os("REQUEST_METHOD").is_some() {
            return failed(
                "REQUEST_METHOD is set as in a CGI script, in which a request could set the proxy",
                "leave REQUEST_METHOD unset",
            );
        }
    }
    Ok(())
}

/// Whether the HTTP library, with its own parser, uses the value as a proxy.
fn is_proxy(value: &str) -> bool {
    let matcher = Matcher::builder().all(value).build();
    let Some(proxy) = matcher.intercept(&Uri::from_static("https://registry.example")) else {
        return false;
    };
    let (uri, host) = (proxy.uri(), proxy.uri().host().unwrap_or_default());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // With an unencoded `@` in it, a part of the user would count as the host.
    let is_clean = !authority.contains('@');
    let has_port = authority != host;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    is_http
        && is_clean
        && !host.is_empty()
        && (!has_port || uri.port_u16().is_some_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_what_the_http_library_connects_to() {
        for value in [
            "http://proxy.corp.example:3128",
            "https://user:p%40ss@proxy.corp.example",
            "proxy.corp.example:3128",
            "http://[::1]:3128/",
            "proxy",
        ] {
            assert!(is_proxy(value), "{value}");
        }
        for value in [
            " http://proxy.corp.example:3128",
            "http://proxy.corp.example:port",
            "http://proxy.corp.example:99999",
            "http://user:p@ss@proxy.corp.example:3128",
            "http://",
            "http:///",
            "socks5://proxy.corp.example:1080",
            "ftp://proxy.corp.example",
            "http://pro xy:3128",
        ] {
            assert!(!is_proxy(value), "{value}");
        }
    }
}
