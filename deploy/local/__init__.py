"""The platform on one machine: native processes in `.local/`, under supervisord. Not for production."""
