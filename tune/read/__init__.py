"""What a person reads of a search: tables, status, the final report, verification."""
