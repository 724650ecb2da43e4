//! The commands on a database of their own, where none is named.
