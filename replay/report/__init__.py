"""What an evaluation found, as plain data, and the page that shows it."""
