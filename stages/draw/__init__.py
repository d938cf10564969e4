"""Objects and gates drawn into pictures and videos."""
