//! Encodes rows in the binary format of COPY, the fastest way to write many rows: it takes less than
//! half of the server time of `insert … on conflict`. If a row already exists, the whole statement fails.

use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::{PgArgumentBuffer, Postgres};
use sqlx::{Error, PgConnection};

/// Size of one message. The connection copies each message into its buffer, which grows to this size.
const PART_BYTES: usize = 256 << 10;

/// The rows of one `copy … from stdin (format binary)`, as "COPY, Binary Format" of PostgreSQL's manual
/// describes them.
#[derive(Debug)]
pub(super) struct CopyRows {
    columns: i16,
    is_empty: bool,
    row: CopyRow,
    /// An error if a row could not be encoded.
    encoded: Result<(), Error>,
}

/// The values of a row, in the order of the columns.
#[derive(Debug)]
pub(super) struct CopyRow(PgArgumentBuffer);

impl CopyRows {
    /// Starts with no rows; each row must have this number of columns.
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

    /// Writes the rows with this statement, and returns their number. Without rows it does nothing.
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
    /// Adds a value. It must have the type of the column.
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
