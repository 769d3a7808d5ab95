-- Times when the database was brought back from a backup. From `since` to `until` deliveries may have been sent, of which
-- it does not know.
create table restorations (
  since timestamptz not null,
  until timestamptz not null,
  primary key (since, until)
);
