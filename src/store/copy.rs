//! Rows in the binary form of COPY, the fastest way to write many: it costs the server less than half
//! of what an `insert … on conflict` costs. A row that is there already makes the whole statement fail.

use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::{PgArgumentBuffer, Postgres};
use sqlx::{Error, PgConnection};

/// What is sent at once is copied into the buffer of the connection, which grows as large.
const PART_BYTES: usize = 256 << 10;

/// The rows of one `copy … from stdin (format binary)`, as "COPY, Binary Format" of PostgreSQL's manual
/// describes them.
#[derive(Debug)]
pub(super) struct CopyRows {
    columns: i16,
    is_empty: bool,
    row: CopyRow,
    /// Why the rows cannot be written.
    encoded: Result<(), Error>,
}

/// The values of a row, in the order of the columns.
#[derive(Debug)]
pub(super) struct CopyRow(PgArgumentBuffer);

impl CopyRows {
    /// No rows so far, of so many columns.
    pub(super) fn new(columns: i16) -> CopyRows {
        let mut buffer = PgArgumentBuffer::default();
        // No flags, and no extension of the header.
        buffer.extend(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        CopyRows {
            columns,
            is_empty: true,
            row: CopyRow(buffer),
            encoded: Ok(()),
        }
    }

    /// Adds a row with the values that `fill` adds.
    pub(super) fn row(&mut self, fill: impl FnOnce(&mut CopyRow) -> Result<(), Error>) {
        self.is_empty = false;
        self.row.0.extend(self.columns.to_be_bytes());
        if let Err(error) = fill(&mut self.row) {
            self.encoded = Err(error);
        }
    }

    /// Writes the rows by this statement, and gives their number. Without rows it asks nothing.
    pub(super) async fn write(
        self,
        connection: &mut PgConnection,
        statement: &str,
    ) -> Result<u64, Error> {
        if self.is_empty {
            return Ok(0);
        }
        self.encoded?;
        let CopyRow(mut buffer) = self.row;
        buffer.extend((-1_i16).to_be_bytes());
        let mut copy = connection.copy_in_raw(statement).await?;
        for part in buffer.chunks(PART_BYTES) {
            if let Err(error) = copy.send(part).await {
                // If this fails too, so does the next statement of the connection.
                let _ = copy.abort("the rows could not be sent").await;
                return Err(error);
            }
        }
        copy.finish().await
    }
}

impl CopyRow {
    /// Adds a value, which has to be of the column's type.
    pub(super) fn value<'q, T: Encode<'q, Postgres>>(&mut self, value: T) -> Result<(), Error> {
        let buffer = &mut self.0;
        let start = buffer.len();
        buffer.extend([0; 4]);
        let length = match value.encode(buffer).map_err(Error::Encode)? {
            IsNull::Yes => -1,
            IsNull::No => i32::try_from(buffer.len() - start - 4)
                .map_err(|error| Error::Encode(error.into()))?,
        };
        buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}
