//! Report views as data.
