-- So that counting what is not answered does not read all that was.
create index interactions_open on interactions (state) where state <> 'ANSWERED';
