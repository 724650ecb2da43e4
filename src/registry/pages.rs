//! Listings page by page: the artifact list by marker, the catalog and the instances by offset.
//!
//! A page that exceeds the size limit is requested again with fewer rows. Later pages have more rows
//! again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::error::{RegistryError, RequestFailure};
use super::wire::{self, ArtifactPage, OffsetPage};
use super::{PAGE_SIZE, Registry};
use crate::artifact::{Artifact, ListedInstance, Namespace, Page, Repository};
use crate::run::RequestKind;

/// The documented default: the start of the list.
pub(super) const FIRST_MARKER: i64 = 1;

/// After this many pages in a row without anything new, a listing is considered endless.
const MAX_FRUITLESS_PAGES: u32 = 100;

/// A listing by offset is considered endless if it returns more entries than this, and many times its
/// total.
const ENDLESS_ENTRIES: u64 = 1_000_000;
const ENDLESS_FACTOR: u64 = 10;

/// How often a listing by offset is read again when its entries shift during the reading.
const CATALOG_READINGS: u32 = 3;

/// Limits to try. Each is a divisor of the one before, because an offset has to be a multiple of the
/// limit (swr_03_0102, swr_03_0201).
const LIMITS: [u64; 5] = [PAGE_SIZE, 50, 25, 5, 1];

/// Maximum number of pages that have to fit before a larger limit is tried.
const MAX_NEEDED: u32 = 64;

/// In this order, entries created during the listing are at its end and do not shift others.
pub(super) const OLDEST_FIRST: &[(&str, &str)] = &[("order_type", "asc")];

/// The pages of the artifact list (ListInstanceAllArtifacts, swr_03_0306).
#[derive(Debug)]
pub struct ArtifactPages {
    registry: Registry,
    /// `None` after the last page.
    marker: Option<i64>,
    seen: HashSet<i64>,
    limit: PageLimit,
    novelty: Novelty,
}

impl ArtifactPages {
    pub(super) fn new(registry: Registry) -> ArtifactPages {
        ArtifactPages {
            registry,
            marker: Some(FIRST_MARKER),
            seen: HashSet::from([FIRST_MARKER]),
            limit: PageLimit::default(),
            novelty: Novelty::default(),
        }
    }

    /// The next page; `None` after the one without a next marker. Only then is the listing
    /// complete.
    ///
    /// A repeated marker is an error, and so are too many pages in a row without anything new. Rows
    /// may repeat on later pages.
    pub async fn next(&mut self) -> Result<Option<Page<Artifact>>, RegistryError> {
        let Some(marker) = self.marker else {
            return Ok(None);
        };
        let path = format!("{}/artifacts", self.registry.base);
        let ArtifactPage { page, next_marker } = loop {
            let limit = self.limit.rows;
            let query = [("marker", marker.to_string()), ("limit", limit.to_string())];
            let asking = self.registry.get_page(
                RequestKind::Artifacts,
                &path,
                &query,
                limit,
                wire::artifact_page,
            );
            match asking.await {
                Err(error) if error.is_too_large() && self.limit.shrink() => {}
                answer => break answer?,
            }
        };
        self.limit.grow(|_| true);
        if let Some(marker) = next_marker
            && !self.seen.insert(marker)
        {
            return Err(unusable(&path, RequestFailure::RepeatedMarker { marker }));
        }
        let pages = self.novelty.fruitless_pages(&page);
        if pages == MAX_FRUITLESS_PAGES {
            return Err(unusable(&path, RequestFailure::EndlessListing { pages }));
        }
        self.marker = next_marker;
        Ok(Some(page))
    }
}

/// The pages of a listing by offset and limit.
///
/// Entries that are deleted during the listing shift its pages. So a listing that ends with fewer
/// entries than its total is read again from the start, and the pages of all readings are returned:
/// of several rows with the same id the last one counts.
#[derive(Debug)]
pub struct CatalogPages<T> {
    registry: Registry,
    listing: OffsetListing<T>,
    limit: PageLimit,
    /// Readings before this one.
    earlier_readings: u32,
    reading: Reading,
    is_complete: bool,
}

/// One reading from the start.
#[derive(Debug, Default)]
struct Reading {
    offset: u64,
    /// The ids read so far, or their hashes.
    ids: HashSet<u64>,
    unreadable: u64,
    fruitless_pages: u32,
}

/// What is listed by offset and limit.
#[derive(Debug)]
pub(super) struct OffsetListing<T> {
    kind: RequestKind,
    /// What is listed, for messages.
    what: &'static str,
    path: String,
    order: &'static [(&'static str, &'static str)],
    decode: fn(&[u8], usize) -> Result<OffsetPage<T>, RequestFailure>,
    /// Identifies an entry.
    id: fn(&T) -> u64,
}

impl OffsetListing<Namespace> {
    /// ListInstanceNamespaces (swr_03_0102).
    pub(super) fn namespaces(base: &str) -> OffsetListing<Namespace> {
        OffsetListing {
            kind: RequestKind::Namespaces,
            what: "namespaces",
            path: format!("{base}/namespaces"),
            order: OLDEST_FIRST,
            decode: wire::namespace_page,
            id: |namespace| namespace.namespace_id.cast_unsigned(),
        }
    }
}

impl OffsetListing<Repository> {
    /// ListInstanceRepositories (swr_03_0201).
    pub(super) fn repositories(base: &str) -> OffsetListing<Repository> {
        OffsetListing {
            kind: RequestKind::Repositories,
            what: "repositories",
            path: format!("{base}/repositories"),
            order: OLDEST_FIRST,
            decode: wire::repository_page,
            id: |repository| repository.repository_id.cast_unsigned(),
        }
    }
}

impl OffsetListing<ListedInstance> {
    /// ListInstance (swr_03_0002).
    pub(super) fn instances(base: &str) -> OffsetListing<ListedInstance> {
        OffsetListing {
            kind: RequestKind::Instance,
            what: "instances",
            path: base.to_owned(),
            // The API documents no order.
            order: &[],
            decode: wire::instance_page,
            id: |instance| hash(&instance.swr_instance_id),
        }
    }
}

impl<T: Send + 'static> CatalogPages<T> {
    pub(super) fn new(registry: Registry, listing: OffsetListing<T>) -> CatalogPages<T> {
        CatalogPages {
            registry,
            listing,
            limit: PageLimit::default(),
            earlier_readings: 0,
            reading: Reading::default(),
            is_complete: false,
        }
    }

    /// The next page; `None` when a reading was complete.
    ///
    /// A reading ends with an empty page, or when the number of entries equals the total in the
    /// answer. A smaller total is ignored.
    pub async fn next(&mut self) -> Result<Option<Page<T>>, RegistryError> {
        if self.is_complete {
            return Ok(None);
        }
        let OffsetPage {
            page,
            entries,
            total,
        } = self.request().await?;
        let reading = &mut self.reading;
        reading.unreadable += entries - page.rows.len() as u64;
        let known = reading.ids.len();
        reading.ids.extend(page.rows.iter().map(self.listing.id));
        if reading.ids.len() > known {
            reading.fruitless_pages = 0;
        } else {
            reading.fruitless_pages += 1;
        }
        let given = reading.ids.len() as u64 + reading.unreadable;
        let is_last = entries == 0 || total == Some(given);
        if !is_last {
            let pages = reading.fruitless_pages;
            if pages == MAX_FRUITLESS_PAGES {
                let failure = RequestFailure::EndlessListing { pages };
                return Err(unusable(&self.listing.path, failure));
            }
            if is_endless(given, total) {
                let what = self.listing.what;
                let failure = RequestFailure::EndlessCatalog { what, given };
                return Err(unusable(&self.listing.path, failure));
            }
            return Ok(Some(page));
        }
        match total {
            Some(total) if given < total => {
                self.earlier_readings += 1;
                if self.earlier_readings == CATALOG_READINGS {
                    let what = self.listing.what;
                    let failure = RequestFailure::IncompleteCatalog { what, given, total };
                    return Err(unusable(&self.listing.path, failure));
                }
                self.reading = Reading::default();
            }
            _ => self.is_complete = true,
        }
        Ok(Some(page))
    }

    async fn request(&mut self) -> Result<OffsetPage<T>, RegistryError> {
        let OffsetListing {
            kind,
            path,
            order,
            decode,
            ..
        } = &self.listing;
        let offset = self.reading.offset;
        loop {
            let limit = self.limit.rows;
            let query = offset_query(offset, limit, order);
            let asking = self.registry.get_page(*kind, path, &query, limit, *decode);
            match asking.await {
                Err(error) if error.is_too_large() && self.limit.shrink() => {}
                answer => {
                    self.reading.offset += limit;
                    let offset = self.reading.offset;
                    self.limit.grow(|rows| offset.is_multiple_of(rows));
                    return answer;
                }
            }
        }
    }
}

/// The total can be missing or too small, but not by this much.
fn is_endless(given: u64, total: Option<u64>) -> bool {
    let claimed = total.unwrap_or_default().saturating_mul(ENDLESS_FACTOR);
    given > ENDLESS_ENTRIES.max(claimed)
}

/// How many rows to request at a time: fewer after a page that was too large, then more again.
#[derive(Debug)]
struct PageLimit {
    rows: u64,
    /// Pages that fitted since the last change.
    fitted: u32,
    /// Pages that have to fit before it grows: twice as many after each failed attempt.
    needed: u32,
    has_grown: bool,
}

impl Default for PageLimit {
    fn default() -> PageLimit {
        PageLimit {
            rows: PAGE_SIZE,
            fitted: 0,
            needed: 1,
            has_grown: false,
        }
    }
}

impl PageLimit {
    /// Reduces the limit after a page was too large; `false` if the page had a single row.
    fn shrink(&mut self) -> bool {
        let mut smaller = LIMITS.into_iter().filter(|rows| *rows < self.rows);
        let Some(rows) = smaller.next() else {
            return false;
        };
        if self.has_grown {
            self.needed = (2 * self.needed).min(MAX_NEEDED);
        }
        (self.rows, self.fitted, self.has_grown) = (rows, 0, false);
        true
    }

    /// Raises the limit after enough pages fitted. `is_possible` returns whether the next page may have
    /// that many rows.
    fn grow(&mut self, is_possible: impl Fn(u64) -> bool) {
        if self.has_grown {
            (self.needed, self.has_grown) = (1, false);
        }
        self.fitted += 1;
        let mut larger = LIMITS.into_iter().filter(|rows| *rows > self.rows);
        if let Some(rows) = larger.next_back()
            && self.fitted >= self.needed
            && is_possible(rows)
        {
            (self.rows, self.fitted, self.has_grown) = (rows, 0, true);
        }
    }
}

/// The query of a page of a listing by offset.
pub(super) fn offset_query(
    offset: u64,
    limit: u64,
    order: &[(&'static str, &str)],
) -> Vec<(&'static str, String)> {
    let order = order
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    [("offset", offset.to_string()), ("limit", limit.to_string())]
        .into_iter()
        .chain(order)
        .collect()
}

fn unusable(path: &str, failure: RequestFailure) -> RegistryError {
    RegistryError {
        request: format!("GET {path}"),
        attempts: 1,
        elapsed: std::time::Duration::ZERO,
        failure,
    }
}

/// Detects pages without anything new. It stores a hash of each page, 8 bytes, and no artifacts.
#[derive(Debug, Default)]
struct Novelty {
    seen: HashSet<u64>,
    fruitless_pages: u32,
}

impl Novelty {
    /// How many pages in a row, up to this one, were empty or the same as an earlier one.
    fn fruitless_pages(&mut self, page: &Page<Artifact>) -> u32 {
        let ids: Vec<i64> = page.rows.iter().map(|row| row.artifact_id).collect();
        // Unreadable rows may be new ones.
        let has_rows = !page.rows.is_empty() || !page.issues.is_empty();
        let is_new = self.seen.insert(hash(&ids));
        if has_rows && (is_new || page.rows.is_empty()) {
            self.fruitless_pages = 0;
        } else {
            self.fruitless_pages += 1;
        }
        self.fruitless_pages
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_ends_at_a_million_entries_or_at_ten_times_what_it_claims() {
        for total in [None, Some(0), Some(100_000)] {
            assert!(!is_endless(1_000_000, total), "{total:?}");
            assert!(is_endless(1_000_001, total), "{total:?}");
        }
        assert!(!is_endless(20_000_000, Some(2_000_000)));
        assert!(is_endless(20_000_001, Some(2_000_000)));
        assert!(!is_endless(u64::MAX, Some(u64::MAX)));
    }
}
