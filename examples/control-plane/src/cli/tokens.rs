//! Tokens on the command line: it works on the database, since who has that needs no token.

use std::io::{self, Write as _};

use serde_json::{Value, json};
use thiserror::Error;

use crate::access::token::{Rights, Token, TokenError};
use crate::cli::table;
use crate::cli::{DatabaseOptions, Output, TokenCommand, TokenCreate};
use crate::database::store::{Store, StoreError};
use crate::database::{Database, Driver, OpenError};
use crate::moment;

/// Why a command about tokens did not do what it was to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nobody serves it: a token in it would be good for nothing.
    #[error(
        "there is no database {0}; start the server, or run `deltaplane migrate`, which make it, or \
         name the server's own with --database-url (DATABASE_URL)"
    )]
    Absent(String),
    /// It does not do that.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing can be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Does what the command line says.
pub async fn run(command: &TokenCommand) -> Result<(), TokensError> {
    match command {
        TokenCommand::Create(arguments) => {
            let store = open(&arguments.database).await?;
            let created = create(&store, arguments).await;
            store.close().await;
            writeln!(io::stdout(), "{}", created?)?;
            let note = "This is shown once. Send it as Authorization: Bearer TOKEN.";
            Ok(writeln!(io::stderr(), "{note}")?)
        }
        TokenCommand::List(arguments) => {
            let store = open(&arguments.database).await?;
            let tokens = store.tokens().await;
            store.close().await;
            let tokens: Vec<Value> = tokens?.iter().map(shown).collect();
            let text = match arguments.output {
                Output::Text => table::tokens(&tokens),
                Output::Json => format!("{:#}", Value::from(tokens)),
            };
            Ok(writeln!(io::stdout(), "{text}")?)
        }
        TokenCommand::Revoke(arguments) => {
            let store = open(&arguments.database).await?;
            let revoked = store.revoke_token(&arguments.name).await;
            store.close().await;
            Ok(revoked?)
        }
    }
}

async fn open(database: &DatabaseOptions) -> Result<Store, TokensError> {
    let database = Database::parse(&database.database_url)?;
    if let Driver::Sqlite(options) = &database.driver
        && !options.get_filename().exists()
    {
        return Err(TokensError::Absent(database.to_string()));
    }
    Ok(Store::open(database).await?)
}

async fn create(store: &Store, arguments: &TokenCreate) -> Result<String, TokenError> {
    let fleets = |fleets: &[String]| fleets.iter().cloned().collect();
    let rights = Rights { read: fleets(&arguments.read), write: fleets(&arguments.write) };
    store.create_token(&arguments.name, &rights, arguments.expires).await
}

fn shown(token: &Token) -> Value {
    json!({
        "name": token.name,
        "read": token.rights.read,
        "write": token.rights.write,
        "created": moment::of_seconds(token.created_at),
        "expires": token.expires_at.map(moment::of_seconds),
    })
}
