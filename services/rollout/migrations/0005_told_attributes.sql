-- What accounts tells of an enterprise (industry, region, tier, attributes) beside what operators set here, which goes before.
alter table enterprises rename column attributes to set_attributes;
alter table enterprises
  add column told_attributes jsonb not null default '{}',
  add column attributes jsonb not null generated always as (told_attributes || set_attributes) stored;
