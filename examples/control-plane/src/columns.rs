//! Rows of the table `services`, between SQL and Rust.

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _};

use crate::changes::Change;
use crate::service::{Definition, Row};

/// The columns of `services s`, for the middle of a `concat!`: what is sent to
/// a database is known when this is compiled.
macro_rules! columns {
    () => {
        "s.id, s.name, s.cluster_id, s.listener_port, s.upstream_host, s.upstream_port, \
         s.protocol, s.health_check_path, s.domains, s.prefix"
    };
}
pub(crate) use columns;

/// Binds `$1` to `$9`, and the id as `$10`.
pub(crate) fn bound<'q>(
    sql: &'static str,
    id: Option<i64>,
    d: &Definition,
) -> Query<'q, Any, AnyArguments> {
    let query = sqlx::query(sql)
        .bind(d.name.clone())
        .bind(d.cluster_id)
        .bind(d.listener_port)
        .bind(d.upstream_host.clone())
        .bind(d.upstream_port)
        .bind(d.protocol.clone())
        .bind(d.health_check_path.clone())
        .bind(serde_json::Value::from(d.domains.clone()).to_string())
        .bind(d.prefix.clone());
    match id {
        Some(id) => query.bind(id),
        None => query,
    }
}

pub(crate) fn rows(found: &[AnyRow]) -> Result<Vec<Row>, sqlx::Error> {
    found.iter().map(row).collect()
}

pub(crate) fn row(r: &AnyRow) -> Result<Row, sqlx::Error> {
    let domains: String = r.try_get("domains")?;
    Ok(Row {
        id: r.try_get("id")?,
        definition: Definition {
            name: r.try_get("name")?,
            cluster_id: r.try_get("cluster_id")?,
            listener_port: r.try_get("listener_port")?,
            upstream_host: r.try_get("upstream_host")?,
            upstream_port: r.try_get("upstream_port")?,
            protocol: r.try_get("protocol")?,
            health_check_path: r.try_get("health_check_path")?,
            // What is no list of strings is one domain, and no valid one: the
            // check of the row then says so with the text that stands there.
            domains: serde_json::from_str(&domains).unwrap_or_else(|_| vec![domains]),
            prefix: r.try_get("prefix")?,
        },
    })
}

pub(crate) fn change(r: &AnyRow) -> Result<Change, sqlx::Error> {
    let present: Option<i64> = r.try_get("id")?;
    Ok(Change {
        cluster_id: r.try_get("changed_cluster")?,
        id: r.try_get("changed_id")?,
        row: present.map(|_| row(r)).transpose()?,
    })
}
