"""How the project looks wherever it shows something: reports, pictures, the dashboard."""
