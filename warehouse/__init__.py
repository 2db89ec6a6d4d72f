"""The attribution warehouse: tables defined once, views and examples in SQL, one atomic build."""
