"""Generate the demo's English-Chinese corpus from the small grammar in this file.

    python recipes/demo/make_corpus.py OUTDIR [--train N] [--valid N] [--test N] [--seed N]

writes train.en, train.zh, valid.en, valid.zh, test.en and test.zh: one sentence a line, and line k of one side is the
translation of line k of the other.

The grammar is synchronous: each rule has an English and a Chinese side with the same {slots}. It has three tables:

- LEXICON lists words by category. A word has forms, separated by slashes: those named in the heading, or "en" and "zh".
  The slot {thing} is filled with the form of the side's language, {thing.pl} and {thing.m} with the form named (the
  English plural and the Chinese measure word of a thing). read_grammar derives a few more categories.
- PARTS lists phrases smaller than a sentence: category, English side, Chinese side.
- SENTENCES lists the patterns of whole sentences, English = Chinese.

The slots {other} and {other2} are two slots of the category "other". A slot that occurs twice has one filler, and no
content word fills two slots of a sentence: nobody is taller than himself. [walk|walks] and [am|is|are] agree with the
first person in the sentence. Finally "a" becomes "an" before a vowel, and the first letter is capitalised. Counts, ages
and clock times are words on both sides (two cups, 两杯); dates and prices have digits on both sides.

The files have these properties:

- The translation is a function of the English sentence. No sentence of either language occurs twice, within a file or
  across files.
- Validation and test sentences are combinations that are not in the training set. The main fillers of a sentence are
  its first two content words in English order; if there are fewer than two, MINOR words (numbers, times, colors and
  the like) complete them. A hash of the pattern and the main fillers determines the split. So if "Mary bought three new
  books yesterday." is a test sentence, no training sentence of this pattern has Mary buying books, whatever the number,
  the adjective and the time. Other patterns may have it, and Mary may buy other things. The hash does not depend on
  the seed, so this also holds across corpora with different seeds.
- The same options give the same bytes on every machine.
"""

import argparse
import hashlib
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

# he: the pronoun, which adds the forms ta (Chinese), his, and agr (agreement of the verb)
# act.tags: i done at home, o done outdoors, s a skill to learn
# task.done: with the Chinese particle for completion; number.count: form before a measure word
LEXICON = """
pronoun he ta his agr: I/我/my/I, you/你/your/plural, he/他/his/third, she/她/her/third, we/我们/our/plural,
    they/他们/their/plural
name en zh he: Tom/汤姆/he, Jack/杰克/he, Peter/彼得/he, David/大卫/he, John/约翰/he, Paul/保罗/he, Li Ming/李明/he,
    Mary/玛丽/she, Anna/安娜/she, Lucy/露西/she, Emma/艾玛/she, Linda/琳达/she, Alice/爱丽丝/she, Wang Fang/王芳/she
kin en zh he: my father/我爸爸/he, my mother/我妈妈/she, my uncle/我叔叔/he, my aunt/我阿姨/she,
    my grandfather/我爷爷/he, my grandmother/我奶奶/she, my older brother/我哥哥/he, my younger sister/我妹妹/she
speaker en zh he: I/我/I, he/他/he, she/她/she, we/我们/we, they/他们/they, my parents/我父母/they,
    the children/孩子们/they, the students/学生们/they
listener en zh he: you/你/you, he/他/he, she/她/she, they/他们/they, your father/你爸爸/he, your mother/你妈妈/she,
    your parents/你父母/they, your older sister/你姐姐/she, your younger brother/你弟弟/he
relation: friend/朋友, neighbor/邻居, classmate/同学, colleague/同事, son/儿子, daughter/女儿, boss/老板, teacher/老师
junior: son/儿子, daughter/女儿, younger brother/弟弟, younger sister/妹妹, student/学生
peer: friend/朋友, roommate/室友, neighbor/邻居, new neighbor/新邻居, classmate/同学
sibling: older brothers/哥哥, younger brothers/弟弟, older sisters/姐姐, younger sisters/妹妹
someone: boy/男孩, girl/女孩, man/男人, woman/女人, old man/老人, student/学生
group: our class/我们班, our school/我们学校, our company/我们公司, our village/我们村, our family/我们家,
    our team/我们队
job: doctor/医生, nurse/护士, teacher/老师, engineer/工程师, lawyer/律师, driver/司机, chef/厨师, writer/作家,
    singer/歌手, artist/画家, farmer/农民, scientist/科学家, pilot/飞行员, reporter/记者, actor/演员, dentist/牙医

act en s ing zh tags:
    play tennis/plays tennis/playing tennis/打网球/os,
    play basketball/plays basketball/playing basketball/打篮球/os,
    play football/plays football/playing football/踢足球/os,
    play chess/plays chess/playing chess/下棋/ios,
    play the piano/plays the piano/playing the piano/弹钢琴/is,
    play the guitar/plays the guitar/playing the guitar/弹吉他/ios,
    play computer games/plays computer games/playing computer games/玩电脑游戏/i,
    read books/reads books/reading books/看书/io,
    watch movies/watches movies/watching movies/看电影/i,
    listen to music/listens to music/listening to music/听音乐/io,
    draw pictures/draws pictures/drawing pictures/画画/ios,
    take photos/takes photos/taking photos/拍照/o,
    fly kites/flies kites/flying kites/放风筝/o,
    sing/sings/singing/唱歌/ios,
    dance/dances/dancing/跳舞/ios,
    cook/cooks/cooking/做饭/is
other_skill: swim/游泳, drive/开车, ski/滑雪, ride a bike/骑自行车
going: swimming/游泳, running/跑步, fishing/钓鱼, skiing/滑雪, skating/滑冰, shopping/购物, camping/露营, hiking/徒步
task en past zh done:
    wash the clothes/washed the clothes/洗衣服/洗完衣服,
    wash the dishes/washed the dishes/洗碗/洗完碗,
    clean the room/cleaned the room/打扫房间/打扫完房间,
    write the report/written the report/写报告/写完报告,
    do the homework/done the homework/做作业/做完作业,
    send the email/sent the email/发邮件/发完邮件,
    book the hotel/booked the hotel/订酒店/订好酒店,
    repair the computer/repaired the computer/修电脑/修好电脑,
    pack the luggage/packed the luggage/收拾行李/收拾好行李,
    prepare lunch/prepared lunch/准备午饭/准备好午饭,
    water the flowers/watered the flowers/浇花/浇完花,
    paint the wall/painted the wall/刷墙/刷完墙,
    pay the rent/paid the rent/交房租/交完房租
morning en s zh: get up/gets up/起床, go to work/goes to work/上班, go to school/goes to school/上学,
    leave home/leaves home/出门, have breakfast/has breakfast/吃早饭
evening en s zh: go to bed/goes to bed/睡觉, come home/comes home/回家, have dinner/has dinner/吃晚饭,
    take a shower/takes a shower/洗澡, watch the news/watches the news/看新闻
duty: go to work/去上班, go to school/去上学, come to the party/来参加聚会, attend the meeting/去开会,
    watch the match/去看比赛, attend the wedding/去参加婚礼, take the exam/去考试, answer the phone/接电话
reason: [was|was|were] ill/生病了, [was|was|were] too tired/太累了, [was|was|were] too busy/太忙了,
    had no time/没有时间, [was|was|were] in a bad mood/心情不好, had a headache/头疼, had a fever/发烧了,
    slept badly/没睡好
delay: missed the bus/没赶上公共汽车, got up late/起床晚了, got lost/迷路了, forgot the time/忘了时间,
    took the wrong train/坐错了火车, had a headache/头疼, slept badly/没睡好
late: work/上班, school/上学, the meeting/开会, the party/聚会, the match/比赛, the exam/考试
wish: find a good job/找到一份好工作, buy a big house/买一座大房子, learn a new language/学一门新语言,
    have a dog/养一只狗, start a company/开一家公司, travel around the world/环游世界, write a novel/写一本小说,
    see the sea/看到大海, buy a new car/买一辆新汽车
lack: [am|is|are] too tired/太累了, [am|is|are] too busy/太忙了, [have|has] no time/没有时间,
    [have|has] no money/没有钱, [have|has] to work/得上班

thing en pl m zh: book/books/本/书, dictionary/dictionaries/本/词典, magazine/magazines/本/杂志, pen/pens/支/钢笔,
    pencil/pencils/支/铅笔, umbrella/umbrellas/把/雨伞, key/keys/把/钥匙, knife/knives/把/刀, watch/watches/块/手表,
    phone/phones/部/手机, camera/cameras/台/照相机, map/maps/张/地图, cup/cups/个/杯子, toy/toys/个/玩具,
    wallet/wallets/个/钱包, backpack/backpacks/个/书包, hat/hats/顶/帽子, scarf/scarves/条/围巾, towel/towels/条/毛巾,
    lamp/lamps/盏/台灯, mirror/mirrors/面/镜子, painting/paintings/幅/画
clothing en pl m zh: coat/coats/件/大衣, shirt/shirts/件/衬衫, sweater/sweaters/件/毛衣, jacket/jackets/件/夹克,
    raincoat/raincoats/件/雨衣, uniform/uniforms/套/制服, suit/suits/套/西装
animal en pl m zh: cat/cats/只/猫, dog/dogs/只/狗, bird/birds/只/鸟, rabbit/rabbits/只/兔子, duck/ducks/只/鸭子,
    sheep/sheep/只/羊, horse/horses/匹/马, cow/cows/头/牛, pig/pigs/头/猪
snack en pl m zh: apple/apples/个/苹果, orange/oranges/个/橙子, pear/pears/个/梨, egg/eggs/个/鸡蛋,
    tomato/tomatoes/个/西红柿, hamburger/hamburgers/个/汉堡, sandwich/sandwiches/个/三明治,
    bowl of rice/bowls of rice/碗/米饭, bowl of noodles/bowls of noodles/碗/面条, piece of cake/pieces of cake/块/蛋糕,
    piece of bread/pieces of bread/片/面包, plate of dumplings/plates of dumplings/盘/饺子
produce: apples/苹果, oranges/橙子, pears/梨, tomatoes/西红柿, potatoes/土豆, carrots/胡萝卜, grapes/葡萄, noodles/面条,
    dumplings/饺子
meat: beef/牛肉, chicken/鸡肉, pork/猪肉, fish/鱼
other_dish: rice/米饭, cake/蛋糕, bread/面包, salad/沙拉, pizza/比萨
hot: coffee/咖啡, tea/茶, hot chocolate/热巧克力
cold: water/水, milk/牛奶, juice/果汁, beer/啤酒, wine/葡萄酒, cola/可乐
meal: breakfast/早饭, lunch/午饭, dinner/晚饭
event: concert/音乐会, meeting/会议, exhibition/展览, wedding/婚礼, match/比赛, party/聚会
taken: taken away/拿走了, lost/弄丢了, sold/卖掉了, borrowed/借走了, found/找到了

store: supermarket/超市, bookstore/书店, pharmacy/药店, market/市场, shop/商店
service: bank/银行, hospital/医院, hotel/酒店, restaurant/餐厅, library/图书馆, museum/博物馆, cinema/电影院,
    post office/邮局
town: park/公园, school/学校, zoo/动物园, train station/火车站, airport/机场, police station/警察局, church/教堂
employer: bank/银行, hospital/医院, hotel/酒店, restaurant/餐厅, supermarket/超市, bookstore/书店, pharmacy/药店,
    factory/工厂, company/公司
college: primary school/小学, middle school/中学, high school/高中, college/大学
furniture: table/桌子, bed/床, chair/椅子, sofa/沙发, desk/书桌, bookshelf/书架
container: box/盒子, drawer/抽屉, suitcase/行李箱, kitchen/厨房, bedroom/卧室, car/汽车
spot: in the park/公园里, by the river/河边, on the beach/海滩上, in the garden/花园里, on the square/广场上,
    in the forest/森林里, under the tree/树下, at school/学校里
direction: across from/对面, behind/后面, in front of/前面, next to/旁边, to the left of/左边, to the right of/右边
turn: left/左, right/右
city: Beijing/北京, Shanghai/上海, Nanjing/南京, Hong Kong/香港, Tokyo/东京, Seoul/首尔, London/伦敦, Paris/巴黎,
    Berlin/柏林, Rome/罗马, Madrid/马德里, Moscow/莫斯科, New York/纽约, Sydney/悉尼
country: China/中国, Japan/日本, Korea/韩国, France/法国, Germany/德国, Italy/意大利, Spain/西班牙, Russia/俄罗斯,
    England/英国, America/美国
cuisine: Chinese/中国, Japanese/日本, Korean/韩国, French/法国, German/德国, Italian/意大利, Spanish/西班牙,
    Russian/俄罗斯
language: Chinese/中文, Japanese/日语, Korean/韩语, French/法语, German/德语, Italian/意大利语, Spanish/西班牙语,
    Russian/俄语, English/英语
subject: math/数学, history/历史, physics/物理, chemistry/化学, biology/生物, geography/地理, music/音乐, art/美术,
    English/英语
vehicle en zh ticket: train/火车/火车票, plane/飞机/机票, bus/公共汽车/汽车票, ship/船/船票
transit: by bus/坐公共汽车, by subway/坐地铁, by taxi/坐出租车, by bike/骑自行车, on foot/走路
ride: by train/坐火车, by plane/坐飞机, by bus/坐公共汽车, by ship/坐船

trait en cmp sup zh: tall/taller/tallest/高, short/shorter/shortest/矮, thin/thinner/thinnest/瘦,
    strong/stronger/strongest/强壮, smart/smarter/smartest/聪明, busy/busier/busiest/忙, rich/richer/richest/有钱,
    happy/happier/happiest/开心, kind/kinder/kindest/善良, brave/braver/bravest/勇敢,
    careful/more careful/most careful/细心, patient/more patient/most patient/有耐心,
    friendly/friendlier/friendliest/友好, polite/more polite/most polite/有礼貌
skilled en zh adv: runs faster/跑/快, swims faster/游/快, sings better/唱/好, dances better/跳/好, draws better/画/好,
    writes better/写/好, gets up earlier/起/早, speaks more slowly/说/慢, walks more slowly/走/慢,
    studies harder/学/认真
opinion: more interesting/有意思, more difficult/难, easier/容易, more useful/有用, more important/重要
quality: cheaper/便宜, more expensive/贵, longer/长, more beautiful/漂亮, more comfortable/舒服, warmer/暖和
fit en cmp zh zhcmp: expensive/cheaper/贵/便宜, big/smaller/大/小, small/bigger/小/大, long/shorter/长/短,
    short/longer/短/长
adj en zh is: new/新/新, old/旧/旧, big/大/大, small/小/小, beautiful/漂亮的/漂亮, cheap/便宜的/便宜,
    expensive/昂贵的/贵, useful/有用的/有用, special/特别的/特别
taste: delicious/好吃, expensive/贵, cheap/便宜, fresh/新鲜, famous/有名
color: red/红色, blue/蓝色, green/绿色, yellow/黄色, black/黑色, white/白色, gray/灰色, brown/棕色, purple/紫色
weather: cold/很冷, hot/很热, warm/很暖和, cool/很凉快, dry/很干燥, windy/风很大, cloudy/多云, sunny/是晴天
climate: colder/冷, hotter/热, warmer/暖和, cooler/凉快, drier/干燥
season: spring/春天, summer/夏天, autumn/秋天, winter/冬天
fall en s past zh noun: rain/rains/rained/下雨/雨, snow/snows/snowed/下雪/雪

number en zh count: two/二/两, three/三/三, four/四/四, five/五/五, six/六/六, seven/七/七, eight/八/八, nine/九/九,
    ten/十/十
few en count: two/两, three/三, four/四
times: once/一次, twice/两次, three times/三次, four times/四次, many times/很多次
age: eight/八, nine/九, ten/十, twelve/十二, fifteen/十五, sixteen/十六, eighteen/十八, twenty/二十
am: six/六, seven/七, eight/八, nine/九
pm: one/一, two/两, three/三, four/四, five/五
eve: six/六, seven/七, eight/八, nine/九, ten/十, eleven/十一
minute: ten/十, fifteen/十五, twenty/二十, forty/四十, fifty/五十
price: 5/5, 8/8, 10/10, 15/15, 20/20, 25/25, 30/30, 50/50, 80/80, 100/100, 120/120, 200/200, 250/250, 300/300, 500/500
weekday: Monday/星期一, Tuesday/星期二, Wednesday/星期三, Thursday/星期四, Friday/星期五, Saturday/星期六, Sunday/星期天
month: January/1月, February/2月, March/3月, April/4月, May/5月, June/6月, July/7月, August/8月, September/9月,
    October/10月, November/11月, December/12月
moment: before going to bed/睡觉前, before breakfast/吃早饭前, after lunch/吃完午饭后, after dinner/吃完晚饭后,
    after work/下班后, after school/放学后
"""

PARTS = """
clock_am: {am} o'clock = {am}点
clock_am: half past {am} = {am}点半
clock_am: a quarter past {am} = {am}点一刻
clock_am: {am} {minute} = {am}点{minute}分
clock_pm: {pm} o'clock = {pm}点
clock_pm: half past {pm} = {pm}点半
clock_pm: a quarter past {pm} = {pm}点一刻
clock_pm: {pm} {minute} = {pm}点{minute}分
clock_eve: {eve} o'clock = {eve}点
clock_eve: half past {eve} = {eve}点半
clock_eve: a quarter past {eve} = {eve}点一刻
clock_eve: {eve} {minute} = {eve}点{minute}分
time: {clock_am} in the morning = 早上{clock_am}
time: {clock_pm} in the afternoon = 下午{clock_pm}
time: {clock_eve} in the evening = 晚上{clock_eve}
past: yesterday = 昨天
past: the day before yesterday = 前天
past: yesterday afternoon = 昨天下午
past: last {weekday} = 上{weekday}
past: {number} days ago = {number.count}天前
past: on {month} {day} = {month}{day}
past_long: last week = 上个星期
past_long: last month = 上个月
past_long: last year = 去年
past_long: {number} weeks ago = {number.count}个星期前
past_long: {number} months ago = {number.count}个月前
past_long: {number} years ago = {number.count}年前
past_long: in {year} = {year}
future: tomorrow = 明天
future: the day after tomorrow = 后天
future: tomorrow morning = 明天早上
future: next {weekday} = 下{weekday}
future: in {number} days = {number.count}天后
future: on {month} {day} = {month}{day}
future_long: next week = 下个星期
future_long: next month = 下个月
future_long: next year = 明年
future_long: in {number} weeks = {number.count}个星期后
future_long: in {number} months = {number.count}个月后
someday: this year = 今年
someday: next year = 明年
someday: in {number} years = {number.count}年后
days: every day = 每天
days: every {weekday} = 每个{weekday}
days: on weekends = 周末
span: {number} days = {number.count}天
span: {number} weeks = {number.count}个星期
span: {number} months = {number.count}个月
span: {number} years = {number.count}年
where: on the {furniture} = {furniture}上
where: under the {furniture} = {furniture}下面
where: next to the {furniture} = {furniture}旁边
where: in the {container} = {container}里
wares: a {ware} = 一{ware.m}{ware}
wares: {number} {ware.pl} = {number.count}{ware.m}{ware}
adj_wares: a {adj} {ware} = 一{ware.m}{adj}{ware}
adj_wares: {number} {adj} {ware.pl} = {number.count}{ware.m}{adj}{ware}
snacks: a {snack} = 一{snack.m}{snack}
snacks: {number} {snack.pl} = {number.count}{snack.m}{snack}
drinks: a cup of {hot} = 一杯{hot}
drinks: {number} cups of {hot} = {number.count}杯{hot}
drinks: a glass of {cold} = 一杯{cold}
drinks: {number} glasses of {cold} = {number.count}杯{cold}
drinks: a bottle of {cold} = 一瓶{cold}
drinks: {number} bottles of {cold} = {number.count}瓶{cold}
"""

SENTENCES = """
# dates, weekdays and the clock
Today is {weekday}, {month} {day}. = 今天是{month}{day}，{weekday}。
{other}'s birthday is {month} {day}. = {other}的生日是{month}{day}。
{name} was born on {month} {day}, {year}. = {name}是{year}{month}{day}出生的。
The {event} was held in {city} on {month} {day}, {year}. = {event}于{year}{month}{day}在{city}举行。
The {event} starts at {time} on {weekday}. = {event}{weekday}{time}开始。
{person} moved to {city} in {month} {year}. = {person}{year}{month}搬到了{city}。
It is already {time} in {city}. = {city}已经{time}了。
The {shop} opens at {clock_am} and closes at {clock_eve}. = {shop}早上{clock_am}开门，晚上{clock_eve}关门。
{person} [{morning}|{morning.s}] at {clock_am} {days}. = {person}{days}早上{clock_am}{morning}。
{person} [{evening}|{evening.s}] at {clock_eve} {days}. = {person}{days}晚上{clock_eve}{evening}。
What time [do|does] {asked} {morning} {days}? = {asked}{days}几点{morning}？

# prices and shopping
This {ware} costs {price} yuan. = 这{ware.m}{ware}要{price}元。
How much did {asked} pay for the {ware}? = {asked}买{ware}花了多少钱？
{person} paid {price} yuan for {wares}. = {person}花{price}元买了{wares}。
{number} kilos of {grocery} cost {price} yuan. = {number.count}公斤{grocery}要{price}元。
This {clothing} is too {fit}, do you have a {fit.cmp} {color} one?
    = 这{clothing.m}{clothing}太{fit}了，有{fit.zhcmp}一点的{color}的吗？
{person} bought {adj_wares} {past}. = {person}{past}买了{adj_wares}。
{person} [want|wants] to buy a {color} {clothing} for {other}.
    = {person}想给{other}买一{clothing.m}{color}的{clothing}。
Which {clothing} do you like, the {color} one or the {color2} one?
    = 你喜欢哪{clothing.m}{clothing}，{color}的还是{color2}的？
The {color} {clothing} is {quality} than the {color2} one. = {color}的{clothing}比{color2}的{quality}。
This {clothing} was very cheap, so {person} bought {number} of them.
    = 这{clothing.m}{clothing}很便宜，所以{person}买了{number.count}{clothing.m}。
What did {asked} buy at the {store} {past}? = {asked}{past}在{store}买了什么？

# things: how many, whose and where
There is a {adj} {thing} {where}. = {where}有一{thing.m}{adj}{thing}。
There are {number} {thing.pl} {where}. = {where}有{number.count}{thing.m}{thing}。
There are {number} {animal.pl} on {other}'s farm. = {other}的农场里有{number.count}{animal.m}{animal}。
How many {ware.pl} [do|does] {asked} have? = {asked}有几{ware.m}{ware}？
{person} [have|has] {number} {animal.pl} and a {animal2}.
    = {person}有{number.count}{animal.m}{animal}和一{animal2.m}{animal2}。
{person} [need|needs] {number} more {ware.pl}. = {person}还需要{number.count}{ware.m}{ware}。
{person} gave {other} {wares} {past}. = {person}{past}送给{other}{wares}。
{name}'s {thing} is {where}. = {name}的{thing}在{where}。
This is not {other}'s {thing}, it is {other2}'s. = 这不是{other}的{thing}，是{other2}的。
Where did {asked} put the {thing}? = {asked}把{thing}放在哪里了？
{person} put the {thing} {where} {past}. = {person}{past}把{thing}放在了{where}。
{person} lost {person.his} {thing} {past}. = {person}{past}把{thing}弄丢了。
{other}'s {thing} was {taken} by {other2}. = {other}的{thing}被{other2}{taken}。

# food and restaurants
{person} [want|wants] to drink {drinks}. = {person}想喝{drinks}。
Please give me {drinks} and {snacks}. = 请给我{drinks}和{snacks}。
{person} ordered {snacks} for {other}. = {person}给{other}点了{snacks}。
{person} ate {snacks} for {meal} last {weekday}. = {person}上{weekday}{meal}吃了{snacks}。
{person} [like|likes] to eat {food}, but [do|does] not like to eat {food2}.
    = {person}喜欢吃{food}，但是不喜欢吃{food2}。
[Do|Does] {asked} want {drink} or {drink2}? = {asked}要{drink}还是{drink2}？
[Do|Does] {asked} like to eat {food}? = {asked}喜欢吃{food}吗？
The {dish} at this {cuisine} restaurant is very {taste}. = 这家{cuisine}餐厅的{dish}很{taste}。
{person} had lunch with {other} at a {cuisine} restaurant {past}.
    = {person}{past}和{other}在一家{cuisine}餐厅吃了午饭。

# people, work and family
{name}'s {junior} is {age} years old this year. = {name}的{junior}今年{age}岁。
How old is {other}'s {relation} this year? = {other}的{relation}今年多大了？
{name} is {number} years older than {name2}. = {name}比{name2}大{number.count}岁。
{name} is {number} years younger than {name2}. = {name}比{name2}小{number.count}岁。
{name}'s {relation} is a {job}. = {name}的{relation}是{job}。
{name} wants to be a {job} like {other}. = {name}想像{other}一样当{job}。
{name} has {few} {sibling} and {few2} {sibling2}. = {name}有{few.count}个{sibling}和{few2.count}个{sibling2}。
{person} [work|works] at a {employer} in {city}. = {person}在{city}的一家{employer}工作。
{other} teaches {subject} at a {college} in {city}. = {other}在{city}的一所{college}教{subject}。
{person} [live|lives] in {city} with {person.his} friends. = {person}和朋友们住在{city}。
{person} [have|has] to {task} before {weekday}. = {person}必须在{weekday}之前{task.done}。
{person} forgot to {task} {past}. = {person}{past}忘了{task}。
{person} [have|has] already {task.past}. = {person}已经{task.done}了。
{person} [have|has] not {task.past} yet. = {person}还没{task.done}。
[Have|Has] {asked} {task.past} yet? = {asked}{task.done}了吗？
{person} [do|does] not want to {task} {future}. = {person}{future}不想{task}。
Can you help {other} {task} {future}? = 你{future}能帮{other}{task}吗？
{other} asked {other2} to {task} {past}. = {other}{past}让{other2}{task}。

# school and languages
{person} [have|has] been learning {language} for {number} years. = {person}学{language}学了{number.count}年了。
{person} can speak {language} but cannot speak {language2}. = {person}会说{language}，但是不会说{language2}。
{person} [have|has] a {subject} class at {time} on {weekday}. = {person}{weekday}{time}有{subject}课。
{person} [think|thinks] {subject} is {opinion} than {subject2}. = {person}觉得{subject}比{subject2}{opinion}。
Because {person} studied hard, {person.he} passed the {subject} exam.
    = 因为{person}学习很努力，所以{person.ta}通过了{subject}考试。

# comparisons
{other} is {trait.cmp} than {other2}. = {other}比{other2}{trait}。
{other} is much {trait.cmp} than {other2}. = {other}比{other2}{trait}得多。
{other} is a little {trait.cmp} than {other2}. = {other}比{other2}{trait}一点。
{other} is not as {trait} as {other2}. = {other}没有{other2}{trait}。
{other} is the {trait.sup} person in {group}. = {other}是{group}最{trait}的人。
{other} is the {trait.sup} of {name}'s friends. = {other}是{name}的朋友里最{trait}的。
The {someone} from {country} is very {trait}. = 来自{country}的{someone}很{trait}。
{other} {skilled} than {other2}. = {other}{skilled}得比{other2}{skilled.adv}。

# weather
It is {weather} in {city} today. = {city}今天{weather}。
It was {weather} in {city} {past}. = {city}{past}{weather}。
It will {fall} in {city} {future}. = {city}{future}会{fall}。
It {fall.past} in {city} for {number} days. = {city}下了{number.count}天{fall.noun}。
What will the weather be like in {city} {future}? = {city}{future}天气怎么样？
{city} is {climate} than {city2} in {season}. = {city}{season}比{city2}{climate}。
If it {fall.s} {future}, {person} will {indoor} at home. = 如果{future}{fall}，{person}就在家{indoor}。
Although it was very cold, {person} went {going} {past}. = 虽然天气很冷，但是{person}{past}还是去{going}了。

# travel and directions
How do I get to the {place} from the {place2}? = 从{place2}到{place}怎么走？
The {place} is {direction} the {place2}. = {place}在{place2}{direction}。
Is there a {place} near the {place2}? = {place2}附近有{place}吗？
Turn {turn} at the {place} and walk for {number} minutes. = 在{place}{turn}转，然后走{number.count}分钟。
Take bus number {number} from the {place} to the {place2}. = 从{place}坐{number}路公共汽车到{place2}。
{future} {person} will first go to the {place} and then to the {place2}. = {future}{person}会先去{place}，再去{place2}。
{person} went to {city} {ride} {past_long}. = {person}{past_long}{ride}去了{city}。
{person} will fly from {city} to {city2} {future}. = {person}{future}会从{city}飞往{city2}。
It takes {number} minutes to get from the {place} to the {place2} {transit}.
    = 从{place}到{place2}{transit}要{number.count}分钟。
{person} [have|has] never been to {city}. = {person}从来没去过{city}。
[Have|Has] {asked} ever been to {city}? = {asked}去过{city}吗？
{person} [have|has] been to {city} {times}. = {person}去过{city}{times}。
The {vehicle} to {city} leaves at {time}. = 去{city}的{vehicle}{time}出发。
{person} bought {number} {vehicle} tickets to {city}. = {person}买了{number.count}张去{city}的{vehicle.ticket}。
When will {asked} come back from {city}? = {asked}什么时候从{city}回来？
{person} stayed in {city} for {span}. = {person}在{city}住了{span}。

# hobbies
{person} [like|likes] {act.ing} and {act2.ing}. = {person}喜欢{act}和{act2}。
{person} [{act}|{act.s}] with {other} {days}. = {person}{days}和{other}一起{act}。
{person} often [{outdoor}|{outdoor.s}] {spot}. = {person}常常在{spot}{outdoor}。
{person} [am|is|are] {outdoor.ing} {spot} with {other}. = {person}正在{spot}和{other}一起{outdoor}。
Who is {outdoor.ing} with {other} {spot}? = 谁在{spot}和{other}一起{outdoor}？
{person} always [{indoor}|{indoor.s}] {moment}. = {person}{moment}总是{indoor}。
When {person} came home, {other} was {indoor.ing}. = {person}回到家的时候，{other}正在{indoor}。
{person} learned to {skill} at the age of {age}. = {person}{age}岁的时候学会了{skill}。
{person} cannot {skill}, but {other} can. = {person}不会{skill}，但是{other}会。
Everyone except {other} likes {act.ing}. = 除了{other}，大家都喜欢{act}。
Both {other} and {other2} like {act.ing}. = {other}和{other2}都喜欢{act}。

# plans and wishes
{person} [plan|plans] to travel to {city} with {other} {future_long}. = {person}打算{future_long}和{other}去{city}旅行。
{person} [hope|hopes] to {wish} {someday}. = {person}希望{someday}能{wish}。
{person} [want|wants] to go {going} {future}, but {person.he} {lack}.
    = {person}{future}想去{going}，但是{person.ta}{lack}。
If {person} [have|has] time {future}, {person.he} will go {going}.
    = 如果{person}{future}有时间，{person.ta}就去{going}。

# relative clauses and reasons
The {ware} that {person} bought {past} is very {adj}. = {person}{past}买的{ware}很{adj.is}。
The {thing} that {other} gave me is very {adj}. = {other}送给我的{thing}很{adj.is}。
The {someone} who is wearing a {color} {clothing} is {name}'s {peer}. = 穿{color}{clothing}的{someone}是{name}的{peer}。
The {someone} who is {outdoor.ing} {spot} is my {peer}. = 在{spot}{outdoor}的{someone}是我的{peer}。
{person} met a {job} from {country} {past}. = {person}{past}遇到了一位来自{country}的{job}。
{person} did not {duty} {past} because {person.he} {reason}. = 因为{reason}，{person}{past}没{duty}。
{person} [was|was|were] late for {late} {past} because {person.he} {delay}. = 因为{delay}，{person}{past}{late}迟到了。
Why didn't {asked} {duty} {past}? = {asked}{past}为什么没{duty}？
"""

# Categories whose words are main fillers only if a sentence has fewer than two others.
MINOR = {"number", "few", "times", "age", "price", "adj", "color"}
MINOR |= {"weekday", "month", "day", "year", "am", "pm", "eve", "minute"}
MINOR |= {"past", "past_long", "future", "future_long", "someday", "days"}

Word = dict[str, str]


class Pattern(NamedTuple):
    """A pair of English and Chinese texts with slots."""

    en: str
    zh: str


def entries(text: str) -> list[str]:
    """Split a table into entries: lines without comments; an indented line continues the entry above it."""
    return [line for line in text.replace("\n    ", " ").splitlines() if line and not line.startswith("#")]


def read_lexicon(text: str) -> dict[str, list[Word]]:
    """Parse the words of each category into dictionaries from the name of a form to the form.

    >>> read_lexicon("turn: left/左, right/右")
    {'turn': [{'en': 'left', 'zh': '左'}, {'en': 'right', 'zh': '右'}]}
    """
    lexicon: dict[str, list[Word]] = {}
    for entry in entries(text):
        heading, words = entry.split(": ")
        category, *forms = heading.split()
        forms = forms or ["en", "zh"]
        lexicon[category] = [dict(zip(forms, word.split("/"), strict=True)) for word in words.split(", ")]
    return lexicon


def read_grammar() -> dict[str, Sequence[Word | Pattern]]:
    """Return the fillers of each category: words, and patterns with slots of their own."""
    words = read_lexicon(LEXICON)
    pronouns = {word["he"]: word for word in words.pop("pronoun")}
    for category in ("name", "kin", "speaker", "listener"):
        words[category] = [word | pronouns[word["he"]] for word in words[category]]
    for category, tag in ("indoor", "i"), ("outdoor", "o"), ("skill", "s"):
        words[category] = [word for word in words["act"] if tag in word["tags"]]
    words["skill"] += words["other_skill"]
    words["other"] = words["name"] + words["kin"]
    words["person"] = words["speaker"] * 2 + words["other"]  # twice, because "I", "we" and so on are few
    words["asked"] = words["listener"] + words["name"]
    words["ware"] = words["thing"] + words["clothing"]
    words["grocery"] = words["produce"] + words["meat"]
    words["dish"] = words["meat"] + words["other_dish"]
    words["food"] = words["produce"] + words["dish"]
    words["drink"] = words["hot"] + words["cold"]
    words["shop"] = words["store"] + words["service"]
    words["place"] = words["town"] + words["shop"]
    words["day"] = [{"en": f"{day}", "zh": f"{day}日"} for day in range(1, 29)]
    words["year"] = [{"en": f"{year}", "zh": f"{year}年"} for year in range(2005, 2025)]
    parts: dict[str, list[Word | Pattern]] = {}
    for entry in entries(PARTS):
        category, sides = entry.split(": ")
        en, zh = sides.split(" = ")
        parts.setdefault(category, []).append(Pattern(en, zh) if "{" in en else {"en": en, "zh": zh})
    return {**words, **parts}


GRAMMAR = read_grammar()
PATTERNS = [Pattern(*entry.split(" = ")) for entry in entries(SENTENCES)]

SLOT = re.compile(r"\{([a-z_]+)(\d?)(?:\.([a-z]+))?\}")  # category, number of the slot, form
CHOICE = re.compile(r"\[([^][]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|um)")  # "a useful" and "a uniform" stay

SPLITS = ("train", "valid", "test")
HELD_OUT = 5  # percent of the combinations for validation, and the same for test
MOST_MISSES = 100_000  # after this many draws without a new sentence, the grammar is taken to be exhausted


@dataclass(frozen=True)
class Example:
    """A sentence pair, its pattern, and its main fillers in English (defined at the top of this file)."""

    en: str
    zh: str
    pattern: Pattern
    main: tuple[str, ...]

    def split(self) -> str:
        """Return the split of this combination of pattern and main fillers."""
        digest = hashlib.sha256("\n".join((self.pattern.en, *self.main)).encode()).digest()
        percentile = int.from_bytes(digest[:8], "big") % 100
        if percentile < HELD_OUT:
            return "test"
        return "valid" if percentile < 2 * HELD_OUT else "train"


@cache
def slots(text: str) -> tuple[tuple[str, str], ...]:
    """List the slots of a text in order, each once, as name ("other2") and category ("other")."""
    return tuple({match[1] + match[2]: match[1] for match in SLOT.finditer(text)}.items())


def substitute(text: str, language: str, fillers: dict[str, Word]) -> str:
    """Fill the slots of a text."""
    return SLOT.sub(lambda match: fillers[match[1] + match[2]][match[3] or language], text)


def expand(pattern: Pattern, rng: random.Random, picked: list[tuple[str, Word]]) -> Word:
    """Fill the slots of a pattern at random, and add the category and the word of each to `picked`."""
    fillers: dict[str, Word] = {}
    for name, category in slots(pattern.en):
        choices = GRAMMAR[category]
        choice = choices[int(rng.random() * len(choices))]  # only random() is stable across Python versions
        if isinstance(choice, Pattern):
            fillers[name] = expand(choice, rng, picked)
        else:
            fillers[name] = choice
            picked.append((category, choice))
    return {"en": substitute(pattern.en, "en", fillers), "zh": substitute(pattern.zh, "zh", fillers)}


def agree(text: str, person: str) -> str:
    """Choose the form in each [...] that agrees with a person: "I", "third" or "plural".

    >>> agree("They [am|is|are] here, they [walk|walks].", "plural")
    'They are here, they walk.'
    """

    def choose(match: re.Match[str]) -> str:
        forms = match[1].split("|")
        if len(forms) == 2:
            return forms[person == "third"]
        return forms[("I", "third", "plural").index(person)]

    return CHOICE.sub(choose, text)


def sample(pattern: Pattern, rng: random.Random) -> Example | None:
    """Draw a random sentence of the pattern; return None if one content word was drawn for two slots."""
    picked: list[tuple[str, Word]] = []
    sides = expand(pattern, rng, picked)
    content = [word["en"] for category, word in picked if category not in MINOR]
    minor = [word["en"] for category, word in picked if category in MINOR]
    if len(set(content)) < len(content):
        return None
    person = next((word["agr"] for _, word in picked if "agr" in word), "")
    english = ARTICLE.sub(r"\1n ", agree(sides["en"], person))
    return Example(english[0].upper() + english[1:], sides["zh"], pattern, tuple((content + minor)[:2]))


def make_corpus(sizes: dict[str, int], seed: int) -> dict[str, list[Example]]:
    """Draw distinct sentence pairs for each split: a random pattern, then random fillers.

    Raises:
        ValueError: the grammar has too few sentences, or gives one English sentence two translations.
    """
    rng = random.Random(seed)
    corpus: dict[str, list[Example]] = {split: [] for split in SPLITS}
    translations: dict[str, str] = {}
    chinese: set[str] = set()
    misses = 0
    while any(len(corpus[split]) < sizes[split] for split in SPLITS):
        misses += 1
        if misses > MOST_MISSES:
            raise ValueError("The grammar has too few sentences for these sizes.")
        example = sample(PATTERNS[int(rng.random() * len(PATTERNS))], rng)
        if example is None:
            continue
        known = translations.get(example.en, example.zh)
        if known != example.zh:
            raise ValueError(f"{example.en!r} has two translations: {known} and {example.zh}")
        split = example.split()
        if example.en in translations or example.zh in chinese or len(corpus[split]) == sizes[split]:
            continue
        translations[example.en] = example.zh
        chinese.add(example.zh)
        corpus[split].append(example)
        misses = 0
    return corpus


def write_corpus(corpus: dict[str, list[Example]], folder: Path) -> None:
    """Write the two files of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in corpus.items():
        (folder / f"{split}.en").write_bytes("".join(f"{example.en}\n" for example in examples).encode())
        (folder / f"{split}.zh").write_bytes("".join(f"{example.zh}\n" for example in examples).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Generate the demo's English-Chinese corpus from a small grammar.")
    parser.add_argument("folder", type=Path, metavar="OUTDIR", help="output folder; created if missing")
    for split, size in zip(SPLITS, (40_000, 500, 500), strict=True):
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N", help=f"sentence pairs (default: {size})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random choices (default: 1)")
    options = parser.parse_args(arguments)
    sizes: dict[str, int] = {split: getattr(options, split) for split in SPLITS}
    if min(sizes.values()) < 0:
        parser.error("a number of sentence pairs cannot be negative")
    try:
        write_corpus(make_corpus(sizes, options.seed), options.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    counts = ", ".join(f"{split} {size}" for split, size in sizes.items())
    print(f"{counts} sentence pairs from {len(PATTERNS)} patterns in {options.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
