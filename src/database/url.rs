//! Parses a database URL. An error names the wrong part but does not repeat it: any part may contain
//! a piece of a password.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// Without it, the user would count as the scheme.
    #[error("it does not begin with postgresql://")]
    Scheme,
    /// The text after the character would count as the next part, which messages show.
    #[error("`{0}` in the user or password must be percent-encoded, as {1}")]
    Unencoded(char, &'static str),
    /// Failover between hosts is not supported.
    #[error("it names several hosts; only one is supported")]
    SeveralHosts,
    /// A user without a host, as in `postgresql://user@/name`.
    #[error("the host is missing")]
    Host,
    /// The text in brackets is not an IPv6 address.
    #[error("the IPv6 address in brackets is not valid")]
    Ipv6,
    /// Not 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A parameter has an unknown value.
    #[error("the value of the parameter {0} is not valid")]
    Parameter(&'static str),
    /// None of the above.
    #[error("expected postgresql://user@host/name")]
    Other,
}

/// Whether the value is a valid `sslmode`.
pub fn is_ssl_mode(value: &str) -> bool {
    value.parse::<PgSslMode>().is_ok()
}

/// The options of a URL, and those of libpq's variables for what it does not set.
pub(super) fn parse(url: &str) -> Result<PgConnectOptions, UrlProblem> {
    let rest = match url.split_once("://") {
        Some(("postgresql" | "postgres", rest)) => rest,
        _ => return Err(UrlProblem::Scheme),
    };
    if rest.contains('#') {
        return Err(UrlProblem::Unencoded('#', "%23"));
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let first_name = query.split('=').next().unwrap_or_default();
    if first_name.contains('@') {
        return Err(UrlProblem::Unencoded('?', "%3F"));
    }
    let (authority, path) = before.split_once('/').unwrap_or((before, ""));
    if path.contains('@') {
        return Err(UrlProblem::Unencoded('/', "%2F"));
    }
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (Some(user), server),
        None => (None, authority),
    };
    if server.contains(',') {
        return Err(UrlProblem::SeveralHosts);
    }
    if server.starts_with('[') && !server.contains(']') {
        return Err(UrlProblem::Ipv6);
    }
    let (host, port) = match server.rfind(']') {
        Some(end) => server.split_at(end + 1),
        None => server.split_at(server.find(':').unwrap_or(server.len())),
    };
    if host.is_empty() && (user.is_some() || !port.is_empty()) {
        return Err(UrlProblem::Host);
    }
    let is_port = |port: &str| port.parse().is_ok_and(|port: u16| port > 0);
    if !matches!(port, "" | ":") && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(UrlProblem::Port);
    }
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let parameter = |name, is_valid: bool| match is_valid {
            true => Ok(()),
            false => Err(UrlProblem::Parameter(name)),
        };
        match name {
            "sslmode" | "ssl-mode" => parameter("sslmode", is_ssl_mode(value))?,
            "port" if value.contains(',') => return Err(UrlProblem::SeveralHosts),
            "port" if !is_port(value) => return Err(UrlProblem::Port),
            "statement-cache-capacity" => {
                parameter("statement-cache-capacity", value.parse::<usize>().is_ok())?
            }
            "hostaddr" if value.contains(',') => return Err(UrlProblem::SeveralHosts),
            "hostaddr" => parameter(
                "hostaddr",
                value.contains('%') || value.parse::<IpAddr>().is_ok(),
            )?,
            _ => {}
        }
    }
    let options = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) if address.parse::<Ipv6Addr>().is_err() => return Err(UrlProblem::Ipv6),
        // sqlx would treat the brackets as a part of the host name.
        Some(address) => {
            let user = user.map(|user| format!("{user}@")).unwrap_or_default();
            format!("postgresql://{user}localhost{port}/{path}?host={address}&{query}")
        }
        None => url.to_owned(),
    };
    let options = PgConnectOptions::from_str(&options).map_err(|_| UrlProblem::Other)?;
    // Hosts can also come from PGHOST and from the query.
    match options.get_socket() {
        None if options.get_host().contains(',') => Err(UrlProblem::SeveralHosts),
        _ => Ok(options),
    }
}
