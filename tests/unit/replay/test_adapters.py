"""Fails when a public layout is read wrongly: the files here are small and made by hand, in those layouts.

Each test writes a few rows, states every event that must come out, and a row that must be refused.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest

from contracts.events import EVENTS
from replay.adapters.behaviour import IMPLICIT
from replay.adapters.registry import ADAPTERS, adapter
from replay.errors import LogError, LogNotFoundError
from replay.log import to_records
from replay.open_log import open_log
from replay.source import TableLog


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(name: str, path: Path) -> tuple[list[tuple[int, str, str]], TableLog, pl.DataFrame]:
    """(time, impression id, what) of impressions and actions; decodes every record, with chunks of two rows
    too."""
    log = open_log(f"{name}:{path}")
    assert isinstance(log, TableLog)
    small = pl.concat(list(log.chunks(2)))
    table = pl.concat(list(log.chunks()))
    assert to_records(small).values == to_records(table).values
    records = to_records(table)
    for kind, value in zip(records.kinds.tolist(), records.values, strict=True):
        msgspec.json.decode(value, type=EVENTS[kind])
    found = [
        (time, key, what or "shown")
        for time, key, what in table.filter(pl.col("event") != "behaviour")
        .select("event_time", "impression_id", "action")
        .iter_rows()
    ]
    return found, log, table


def looks(table: pl.DataFrame) -> list[tuple[int, str, str, str | None]]:
    """(time, user, type, item or query) of behaviours."""
    columns = ("event_time", "user_id", "type", pl.coalesce("item_id", "query"))
    return table.filter(pl.col("event") == "behaviour").select(columns).rows()


def test_trivago(tmp_path: Path) -> None:
    path = tmp_path / "impressions.parquet"
    base = {
        "user_id": "U",
        "session_id": "S",
        "step": 1,
        "platform": "AU",
        "city": "Perth",
        "device": "mobile",
    }
    rows = [
        base
        | {"imp_id": 7, "timestamp": 1541548955, "item_id": "a", "price": 77.0, "position": 0, "clicked": 0},
        base
        | {"imp_id": 7, "timestamp": 1541548955, "item_id": "b", "price": 89.0, "position": 1, "clicked": 1},
        base
        | {"imp_id": 8, "timestamp": 1541548990, "item_id": "", "price": 50.0, "position": 0, "clicked": 0},
    ]
    filters = ["Sort|" * 100, None, None]
    pl.DataFrame(rows).with_columns(pl.Series("current_filters", filters)).write_parquet(path)
    found, log, table = read("trivago", path)
    at = 1541548955000
    assert found == [(at, "7-0", "shown"), (at, "7-1", "shown"), (at, "7-1", "click")]
    assert log.tally.examples == [(3, "item_id is missing")]
    assert table["request_id"].to_list()[:2] == ["7", "7"]
    assert table["position"].to_list()[:2] == [0, 1]
    assert len(table["context"][0]["current_filters"]) == 256
    assert looks(table) == []


def test_trivago_sessions(tmp_path: Path) -> None:
    """A session keeps its order by step although its clock knows seconds only; lists are no behaviours."""
    where = {"platform": "AU", "city": "Perth", "device": "mobile", "current_filters": None}
    base = {"user_id": "U", "session_id": "S", **where}
    at = 1541548955
    lists = [
        base
        | {"imp_id": imp, "timestamp": at + s, "step": step, "item_id": item, "position": place}
        | {"price": 77.0, "clicked": place}
        for imp, s, step in ((7, 0, 3), (8, 0, 5), (9, 2, 7))
        for place, item in enumerate("ab")
    ]
    pl.DataFrame(lists, infer_schema_length=None).write_parquet(tmp_path / "impressions.parquet")
    steps = [
        (0, 1, "search for poi", "Beach"),
        (0, 2, "interaction item image", "31"),
        (0, 3, "clickout item", "b"),
        (0, 4, "filter selection", "f" * 300),
        (0, 5, "clickout item", "b"),
        (1, 6, "interaction item image", "32"),
        (2, 7, "clickout item", "b"),
        (2, 8, "clickout item", "99"),  # of a list that is not in the log
        (9, 9, "change of sort order", None),
    ]
    rows = [
        base | {"timestamp": at + s, "step": k, "action_type": what, "reference": about}
        for s, k, what, about in reversed(steps)
    ]
    rows.append(base | {"timestamp": None, "step": 10, "action_type": "search for poi", "reference": "Hill"})
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(tmp_path / "actions.parquet")
    found, log, table = read("trivago", tmp_path)
    ms = at * 1000
    assert [(time - ms, key) for time, key, what in found if what == "click"] == [
        (2, "7-1"),
        (4, "8-1"),
        (2000, "9-1"),
    ]
    assert looks(table) == [
        (ms, "U", "search for poi", "Beach"),
        (ms + 1, "U", "interaction item image", "31"),
        (ms + 3, "U", "filter selection", "f" * 256),
        (ms + 1000, "U", "interaction item image", "32"),
        (ms + 2001, "U", "clickout item", "99"),
        (ms + 9000, "U", "change of sort order", None),
    ]
    order = table.filter(pl.col("event") != "action")["context"].struct.field("step").cast(pl.Int64)
    assert order.is_sorted() and order.n_unique() == 9
    assert log.tally.refused == 1 and log.tally.examples[0][1] == "event_time is missing or not a time"
    assert log.tally.examples[0][0] > len(lists), "rows are numbered through both files"


def test_taobao(tmp_path: Path) -> None:
    path = write(
        tmp_path / "UserBehavior.csv",
        "1,10,100,pv,1511658000\n"
        "1,10,100,cart,1511658005\n"
        "1,10,100,pv,1511658009\n"
        "1,10,100,buy,1511658010\n"
        "2,10,100,fav,1511658010\n"
        "2,10,100,buy,1511658011\n"
        "3,10,100,stare,1511658012\n"
        "3,10,100,pv,soon\n"
        "1,10,100\n",
    )
    found, log, _ = read("taobao", path)
    at = 1511658000000
    assert found == [
        (at, "taobao-1", "shown"),
        (at + 5000, "taobao-1", "cart"),
        (at + 9000, "taobao-3", "shown"),
        (at + 10000, "taobao-5", "shown"),  # nobody saw user 2 view it: an implicit impression
        (at + 10000, "taobao-3", "purchase"),  # the latest earlier view, not the first
        (at + 10000, "taobao-5", "favourite"),
        (at + 11000, "taobao-5", "purchase"),
    ]
    assert log.tally.made_up == {IMPLICIT: 1}
    assert log.tally.examples == [
        (7, "behaviour stare is not one of pv, fav, cart, buy"),
        (8, "event_time is missing or not a time"),
        (9, "behaviour '' is not one of pv, fav, cart, buy"),
    ]


def test_taobao_as_published_is_sorted_by_user(tmp_path: Path) -> None:
    path = write(
        tmp_path / "UserBehavior.csv", "1,10,5,buy,1511658900\n1,10,5,pv,1511658000\n0,9,5,pv,1511658001\n"
    )
    found, _, _ = read("taobao", path)
    assert [(key, what) for _, key, what in found] == [
        ("taobao-2", "shown"),
        ("taobao-3", "shown"),
        ("taobao-2", "purchase"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "user_log_format1.csv",
            "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
            "1,10,5,77,9,1111,2\n1,10,5,77,9,1111,0\n1,10,5,77,,0829,0\n2,10,5,77,9,1332,0\n2,10,5,77,9,1111,7\n",
        ),
        (
            "events.csv",
            "pair_id,seq,user_id,age_range,gender,merchant_id,item_id,cat_id,brand_id,mmdd,action,repeat_label\n"
            "0,1,1,2.0,1.0,77,10,5,9,1111,2,0\n0,2,1,2.0,1.0,77,10,5,9,1111,0,0\n"
            "0,3,1,2.0,1.0,77,10,5,,829,0,0\n1,1,2,2.0,1.0,77,10,5,9,1332,0,0\n1,2,2,2.0,1.0,77,10,5,9,1111,7,0\n",
        ),
    ],
)
def test_tmall(tmp_path: Path, name: str, text: str) -> None:
    found, log, table = read("tmall", write(tmp_path / name, text))
    day = ms("2014-11-11") - 8 * 3_600_000
    assert found[0] == (ms("2014-08-29") - 8 * 3_600_000, "tmall-3", "shown")
    # The view of the day comes before the purchase of the day, though the file has them the other way.
    assert [(key, what) for _, key, what in found[1:]] == [("tmall-2", "shown"), ("tmall-2", "purchase")]
    assert all(day <= time < day + 86_400_000 for time, _, _ in found[1:])
    assert {reason for _, reason in log.tally.examples} == {
        "event_time is missing or not a time",
        "action 7 is not one of 0, 1, 2, 3",
    }
    assert table["shop_id"][0] == "77" and table["category_id"][0] == "5"


def test_retailrocket(tmp_path: Path) -> None:
    path = write(
        tmp_path / "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n"
        "1433224214164,992329,view,248676,\n"
        "1433221999827,257597,addtocart,355908,\n"
        "1433222276276,257597,transaction,355908,4000\n",
    )
    found, log, table = read("retailrocket", path)
    assert looks(table) == [
        (1433221332117, "257597", "view", "355908"),
        (1433224214164, "992329", "view", "248676"),
    ]
    assert found == [
        (1433221332117, "retailrocket-1", "shown"),
        (1433221999827, "retailrocket-1", "cart"),
        (1433222276276, "retailrocket-1", "purchase"),
        (1433224214164, "retailrocket-2", "shown"),
    ]
    assert log.tally.refused == 0


def test_rees46(tmp_path: Path) -> None:
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    write(
        tmp_path / "2019-Dec.csv",
        header + "2019-12-01 00:00:01 UTC,purchase,7,205,electronics.phone,apple,810.5,u1,s-1\n",
    )
    write(
        tmp_path / "2019-Nov.csv",
        header
        + "2019-11-30 23:59:58 UTC,view,7,205,electronics.phone,apple,810.5,u1,s-1\n"
        + "2019-11-30 23:59:59 UTC,remove_from_cart,7,205,,apple,810.5,u1,s-1\n"
        + "2019-11-30 23:59:59 UTC,view,8,205,,,-3.0,u1,s-1\n",
    )
    found, log, table = read("rees46", tmp_path)
    assert found == [
        (ms("2019-11-30T23:59:58"), "rees46-2", "shown"),
        (ms("2019-12-01T00:00:01"), "rees46-2", "purchase"),
    ]
    assert table["price"][0] == 810.5 and table["value"][-1] == 810.5
    at = ms("2019-11-30T23:59:58")
    assert looks(table) == [(at, "u1", "view", "7"), (at + 1000, "u1", "remove_from_cart", "7")]
    assert table.filter(pl.col("event") == "behaviour")["price"].null_count() == 2
    assert table["context"][0] == {"category_code": "electronics.phone", "brand": "apple", "session": "s-1"}
    assert log.tally.left_out == {}
    assert log.tally.examples == [(4, "price -3.0 is outside 0..1e12")]


def test_criteo(tmp_path: Path) -> None:
    names = [
        "timestamp",
        "uid",
        "campaign",
        "conversion",
        "conversion_timestamp",
        "conversion_id",
        "attribution",
    ]
    names += ["click", "click_pos", "click_nb", "cost", "cpo", "time_since_last_click"]
    names += [f"cat{k}" for k in range(1, 10)]
    rest = ["-1", "-1", "0.1", "0.2", "-1", *"123456789"]
    rows = [
        ["0", "u1", "c1", "1", "500", "77", "1", "1", *rest],
        ["2", "u1", "c1", "1", "500", "77", "1", "1", *rest],  # the last clicked: it gets the purchase
        ["3", "u1", "c1", "1", "500", "77", "1", "0", *rest],
        ["4", "u2", "c2", "0", "-1", "-1", "0", "0", *rest],
        ["5", "u3", "c2", "1", "1", "78", "0", "1", *rest],  # converted before it was shown
    ]
    text = "\n".join("\t".join(row) for row in [names, *rows]) + "\n"
    path = tmp_path / "criteo_attribution_dataset.tsv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    found, log, table = read("criteo", path)
    at = ms("2017-01-01")
    assert found == [
        (at, "criteo-1", "shown"),
        (at, "criteo-1", "click"),
        (at + 2000, "criteo-2", "shown"),
        (at + 2000, "criteo-2", "click"),
        (at + 3000, "criteo-3", "shown"),
        (at + 4000, "criteo-4", "shown"),
        (at + 500_000, "criteo-2", "purchase"),
    ]
    assert log.tally.examples == [(5, "purchase is earlier than its impression")]
    assert table["context"][0]["cat9"] == "9" and table["category_id"][0] == "1"


def test_kuairand(tmp_path: Path) -> None:
    header = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
    )
    tail = "0,1,151024,104400,0,0,0,0,1\n"
    write(
        tmp_path / "log_standard_4_22_to_5_08_pure.csv",
        header
        + f"0,11,20220422,400,1650585801301,1,1,1,0,0,{tail}"
        + f"1,12,20220422,400,1650585801000,0,0,0,0,0,{tail}",
    )
    write(
        tmp_path / "log_random_4_22_to_5_08_pure.csv",
        header + f"2,13,20220422,400,1650585801200,0,0,0,0,1,{tail}",
    )
    found, log, table = read("kuairand", tmp_path)
    assert found == [
        (1650585801000, "kuairand-3", "shown"),
        (1650585801200, "kuairand-1", "shown"),
        (1650585801301, "kuairand-2", "shown"),
        (1650585801301, "kuairand-2", "click"),
        (1650585801301, "kuairand-2", "favourite"),
    ]
    assert log.tally.left_out == {"is_follow": 1, "is_forward": 1}
    assert table["context"][0] == {"tab": "1", "is_rand": "0", "duration_ms": "104400"}


def test_avazu(tmp_path: Path) -> None:
    names = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    names += "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n"
    tail = "1,2,15706,320,50,1722,0,35,-1,79\n"
    site = f"1005,0,site1,dom,news,ecad2386,7801e8d9,07d7df22,a99f214a,ip1,model1,{tail}"
    app = f"1005,1,85f751fd,dom,f028772b,app1,adom,games,dev1,ip2,model2,{tail}"
    path = write(
        tmp_path / "train.csv",
        names + f"a1,0,14102100,{site}a2,1,14102100,{app}a3,0,14102101,{site}a4,1,14102199,{site}",
    )
    found, log, table = read("avazu", path)
    at = ms("2014-10-21")
    assert found == [
        (at, "a1", "shown"),
        (at + 1_800_000, "a2", "shown"),  # the second of two rows: half an hour into the hour
        (at + 1_800_000, "a2", "click"),
        (at + 3_600_000, "a3", "shown"),
    ]
    assert log.tally.examples == [(4, "event_time is missing or not a time")]
    shown = table.filter(event="impression")
    assert shown["user_id"].to_list() == ["ip1-model1", "dev1", "ip1-model1"]
    assert shown["shop_id"].to_list() == ["site1", "app1", "site1"]
    assert shown["category_id"].to_list() == ["news", "games", "news"]


def test_aliccp(tmp_path: Path) -> None:
    def features(**values: str) -> str:
        return "\x01".join(f"{field[1:]}\x02{value}\x031.0" for field, value in values.items())

    ad = features(f205="4001", f206="606", f207="707", f216="808", f301="9351665")
    write(
        tmp_path / "sample_skeleton_train.csv",
        f"1,0,0,bacff91692951881,5,{ad}\n2,1,1,bacff91692951881,5,{ad}\n"
        f"3,0,1,bacff91692951881,5,{ad}\n4,0,0,unknown,5,{ad}\n",
    )
    # Field 1205 ends like field 205, and a counted history field carries a suffix.
    profile = features(f1205="no", f101="u9", f121="p1", f109_14="12")
    write(tmp_path / "common_features_train.csv", f"bacff91692951881,4,{profile}\n")
    found, log, table = read("aliccp", tmp_path)
    at = ms("2017-01-01")
    assert found == [
        (at, "aliccp-1", "shown"),
        (at + 1, "aliccp-2", "shown"),
        (at + 1, "aliccp-2", "click"),
        (at + 1, "aliccp-2", "purchase"),
    ]
    assert log.tally.examples == [(3, "conversion is 1 where click is 0"), (4, "user_id is missing")]
    assert table.row(0, named=True)["item_id"] == "4001" and table["user_id"][0] == "u9"
    assert table["context"][0]["brand"] == "808" and table["context"][0]["field_121"] == "p1"


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "obd"])
def test_a_log_without_data_says_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGELINE_DATA", str(tmp_path))
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path / "home"))
    assert adapter(name).find() is None
    assert adapter(name).TITLE and name in adapter(name).MISSING
    with pytest.raises(LogNotFoundError, match=f"SURGELINE_{name.upper()}"):
        open_log(name)


def test_a_folder_of_its_own_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine" / "UserBehavior.csv", "1,10,100,pv,1511658000\n")
    monkeypatch.setenv("SURGELINE_TAOBAO", str(tmp_path / "mine"))
    assert open_log("taobao").info().impressions == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", "timestamp,visitorid,itemid\n1,2,3\n")
    with pytest.raises(LogError, match="no column event; it has timestamp, visitorid, itemid"):
        open_log(f"retailrocket:{path}").info()


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LogNotFoundError, match="known are: obd, trivago, taobao"):
        open_log("obt")
    with pytest.raises(LogNotFoundError, match="--mapping"):
        open_log(write(tmp_path / "a.tsv", "x"))


def test_a_file_and_its_unpacked_copy_are_one_log(tmp_path: Path) -> None:
    """Fails when a month that lies there packed and unpacked has each of its events twice."""
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    for month in ("2019-11", "2019-12"):
        text = header + f"{month}-01 00:00:01 UTC,view,7,205,,apple,8.5,u1,s-1\n"
        (tmp_path / f"{month}.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "2019-12.csv.gz.part").write_bytes(b"half a download")
    write(tmp_path / "2019-12.csv", gzip.decompress((tmp_path / "2019-12.csv.gz").read_bytes()).decode())
    found, log, _ = read("rees46", tmp_path)
    assert [time for time, _, _ in found] == [ms("2019-11-01T00:00:01"), ms("2019-12-01T00:00:01")]
    assert [file.name for file in log.files] == ["2019-11.csv.gz", "2019-12.csv"]


def test_a_compressed_file_is_found_as_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "UserBehavior.csv.gz").write_bytes(gzip.compress(b"1,10,100,pv,1511658000\n"))
    assert open_log(f"taobao:{tmp_path}").info().impressions == 1


def test_aliccp_is_its_training_part(tmp_path: Path) -> None:
    """Fails when the test part, which comes first in the alphabet, stands in for the training part."""
    for part in ("test", "train"):
        write(tmp_path / f"sample_skeleton_{part}.csv", f"{part},0,0,c,1,205\x024001\x031.0\n")
    features = b"c,1,101\x02u9\x031.0\n"
    (tmp_path / "common_features_train.csv.gz").write_bytes(gzip.compress(features))
    assert [key for _, key, _ in read("aliccp", tmp_path)[0]] == ["aliccp-train"]
