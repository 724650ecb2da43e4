create table swr.instance (
    instance_id integer generated always as identity primary key
);
