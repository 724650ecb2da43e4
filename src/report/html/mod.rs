//! All reports on one page, which needs only a browser.
//!
//! The file contains everything, and its content security policy forbids the browser to fetch or run
//! anything else. Tables contain all data of the charts, so the page works without JavaScript.

mod charts;
mod data;
mod page;

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use crate::database::reader::{ReadError, Reader};
use charts::Charts;
use data::Data;
pub use data::Options;

/// Apache ECharts, as built by `charts/build`.
const LIBRARY: &[u8] = include_bytes!("charts/echarts.min.js.gz");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Rows of each table, unless another limit is given: more are slow in a browser.
pub const MOST_ROWS: u64 = 5_000;

/// Creates the page from one snapshot of the database.
pub async fn page(reader: &mut Reader, options: &Options<'_>) -> Result<String, ReadError> {
    let data = Data::read(reader, options).await?;
    let charts = Charts::new(&data).to_json().map_err(io::Error::other)?;
    let mut library = String::new();
    GzDecoder::new(LIBRARY).read_to_string(&mut library)?;
    let parts = page::Parts {
        policy: &policy(&[&library, SCRIPT], STYLE),
        style: STYLE,
        charts: &charts,
        library: &library,
        script: SCRIPT,
    };
    Ok(page::render(&data, options, &parts).into_string())
}

/// Allows these scripts and this style, and nothing else.
fn policy(scripts: &[&str], style: &str) -> String {
    let source = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let scripts: Vec<String> = scripts.iter().map(|text| source(text)).collect();
    format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
        scripts.join(" "),
        source(style)
    )
}
