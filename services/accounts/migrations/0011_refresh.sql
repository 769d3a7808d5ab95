-- Access tokens that are refreshed before they end.

-- version: grows with each token of an account, so that whoever hears of tokens keeps the newest one.
-- refresh_time: when the next refresh is due, or when the lease on the one under way ends; null: the token is not refreshed.
-- refresh_fence: the number of the newest lease; the outcome of any other does not count.
-- refresh_tries: how many refreshes of this token have begun.
alter table tokens
  add column version bigint not null default 0,
  add column refresh_time timestamptz,
  add column refresh_fence bigint not null default 0,
  add column refresh_tries int not null default 0;
create index tokens_by_refresh on tokens (refresh_time) where refresh_time is not null;

-- What came with a refresh token before this is refreshed from now on, and its holder is not asked again.
update tokens set refresh_time = expire_time - least((expire_time - update_time) / 4, interval '1 day')
  where sealed_refresh is not null and expire_time is not null;
update accounts set token_expire_time = null
  from tokens
  where tokens.enterprise = accounts.enterprise and tokens.account = accounts.name and tokens.refresh_time is not null;
