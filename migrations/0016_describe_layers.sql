-- Histories may differ in the size they give a layer; each is kept as it came.

comment on table swr.layer is
    'One row per distinct layer: a compressed blob, with the size its histories give it. Were two histories to differ in that, there would be a row for each.';
comment on column swr.layer.layer_id is 'Names digest and size.';
