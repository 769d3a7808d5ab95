"""The platform on one machine: native processes in `.local/`, started and restarted by supervisord. Not for production."""
