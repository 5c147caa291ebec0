"""Results in object storage: changed files are uploaded and checked, in an order that keeps readers consistent."""
