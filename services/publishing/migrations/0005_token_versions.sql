-- Of two tokens of an account that the accounts service tells of, the one with the larger version is right.
alter table accounts add column token_version bigint not null default 0;
