"""Changes of an active run: rules, areas, filters, profiles, and the page that draws areas."""
