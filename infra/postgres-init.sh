#!/bin/sh
# Two databases on one server: MLflow's and Prefect's.
set -eu
for name in mlflow prefect; do
    psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --command "CREATE DATABASE $name"
done
