//! The embedded server, with real processes.

use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_test_gets_a_database_of_its_own_with_the_migrations_applied() {
    let database = TestDatabase::create().await;
    let other = TestDatabase::create().await;
    assert_ne!(database.url(), other.url());
    let tables = "select count(*) from swr.instance";
    assert_eq!(database.snapshot(tables).await, "0");
    let values = "select 1, null, 'a b' union all select 2, 'x', ''";
    assert_eq!(database.snapshot(values).await, "1 | NULL | a b\n2 | x | ");
}

#[tokio::test]
async fn an_empty_database_has_no_schema_of_ours() {
    let database = TestDatabase::create_empty().await;
    let schemas = "select count(*) from pg_namespace where nspname like 'swr%'";
    assert_eq!(database.snapshot(schemas).await, "0");
}
