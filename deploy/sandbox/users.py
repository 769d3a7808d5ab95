"""The people of the demonstration. They are made up, and all have the same password."""

PASSWORD = "sandbox-password"  # noqa: S105  written in the README for all to see

WEIBO_KEY = "1234567890"
WEIBO_SECRET = "sandbox-weibo-secret"  # noqa: S105  as the password
"""The app that the sandbox knows when it plays Weibo."""

COMPANY = [
    ("tianshan", "天山汽车 Tianshan Motors", 128_400),
    ("tianshan-dealer", "天山汽车经销商 Tianshan Dealers", 23_150),
    ("tianshan-jobs", "天山招聘 Tianshan Jobs", 8_920),
    ("tianshan-care", "天山客服 Tianshan Care", 15_600),
]

PEOPLE = [
    ("li-na", "李娜", 412),
    ("wang-wei", "王伟", 1_380),
    ("zhang-min", "张敏", 96),
    ("liu-yang", "刘洋", 2_750),
    ("chen-jing", "陈静", 640),
    ("yang-fan", "杨帆", 188),
    ("zhao-lei", "赵磊", 5_210),
    ("huang-mei", "黄梅", 73),
    ("zhou-tao", "周涛", 930),
    ("wu-xia", "吴霞", 255),
    ("xu-peng", "徐鹏", 1_120),
    ("sun-li", "孙丽", 348),
    ("ma-chao", "马超", 18_300),
    ("zhu-lin", "朱琳", 84),
    ("hu-bin", "胡斌", 527),
    ("guo-qing", "郭庆", 1_940),
    ("he-yan", "何燕", 301),
    ("gao-feng", "高峰", 9_870),
    ("lin-xue", "林雪", 655),
    ("luo-jun", "罗军", 142),
    ("alice", "Alice Morgan", 820),
    ("ben", "Ben Carter", 215),
    ("carla", "Carla Reyes", 3_460),
    ("dmitri", "Dmitri Volkov", 77),
    ("emma", "Emma Larsen", 1_290),
    ("farid", "Farid Haddad", 460),
    ("grace", "Grace Kim", 12_050),
    ("hugo", "Hugo Laurent", 334),
    ("irina", "Irina Duarte", 591),
    ("jonas", "Jonas Weber", 108),
]
"""(username, display name, followers)"""
