/**
 * Packets of stock OpenVPN and the keys they were made with: the first of each session, recorded on a loopback
 * interface. The keys were made for this by `openvpn --genkey` 2.6.14 and protect nothing.
 */

export interface Recorded {
  readonly from: string;
  readonly transport: 'udp' | 'tcp';
  /** Our side's configuration; OpenVPN had `--auth`, and the opposite direction. */
  readonly wrap: string;
  readonly hex: string;
}

/** `openvpn --genkey tls-auth` */
export const tlsAuthKeyFile = `#
# 2048 bit OpenVPN static key
#
-----BEGIN OpenVPN Static key V1-----
e5e6fc90044a29294bb9daff69f13739
6ab6fb650c2d286cdf75b0183d2a4fc9
e7a8e135c1a1fd36ec9bd0c140d3536a
659d69603a739511b886f8d131019f4a
e2bb2e8ed576a70bd1a9318608addbd4
a3ea6b4af5e66dbe4f71d243dd32adba
76e0bd6ca3e16c002adaec4298851ecb
881fa6bf849a0b23b97db22c179f4602
ecbe2ca3bb4b8bbd71497fbc2d8fef43
0b4030c3e41b2e1416175aad2c7e5e8e
0c79545e06b523f6d1e2d5393d47073a
bc9488fe2d4f00d2c3dec21e5cdd6310
78c150dfc31e46bdf769b1591573d318
7f97ee9a352a5ecbab930b0d58c2ad2b
d322be9ee76389f8d2b7dc2844380c71
bdc4acd679b8cf11a37671fd9eca0694
-----END OpenVPN Static key V1-----
`;

/** `openvpn --genkey tls-crypt` */
export const tlsCryptKeyFile = `#
# 2048 bit OpenVPN static key
#
-----BEGIN OpenVPN Static key V1-----
2d2a470fd9cf851999070269416ea8b8
cef9e16ca2563318eb16051f03f64821
ecc64f8f2a9114a47007301a463842cb
116e3741d86d26bacc01d961436d835c
03a5070eeb096b25e2e0d762f7164ad0
24a9718c7989e3631a2bc19420980d31
737650e4d17a2c18a8b48015828ce016
555d3e225e4400d6ce264be4791a1c32
6d9f077a922979776a70e6a4e49311cd
d0727e29e0d36da7f795075299cc34a0
221c454728622994364592c5e00c421b
db16e6da64ac45ad06d685c02b2d80dd
27df4590aca11de6eea85071e17a28dd
c17191762e52ed928017ab1403e3b195
115ba5f8ffe9b33c990bc5bb6bf058f3
af3ed9213ec424a485d3481055de26b7
-----END OpenVPN Static key V1-----
`;

/** `openvpn --genkey tls-crypt-v2-server` */
export const serverKeyFile = `-----BEGIN OpenVPN tls-crypt-v2 server key-----
C4ube3Xl3xki0mEZUv4bQ/EYWOWoHcwjEAg8dlyqY32W3SKFNHI2xhsv1OjJI6Tb
GuTrlMRCiV4bD8bdsoTXouMNmy0gt0UzsDAVClJWs0QEnhH+sWMTBhs8J6qotDeu
Cnufud0s8iohsF2TJ7nqhf6MJZb9yJ5fasf2J+ZgaDw=
-----END OpenVPN tls-crypt-v2 server key-----
`;

/** `openvpn --tls-crypt-v2 SERVERKEY --genkey tls-crypt-v2-client`: with the time of issue in it. */
export const clientKeyFile = `-----BEGIN OpenVPN tls-crypt-v2 client key-----
gMVdgzLWAebNloh71C3UoH7QL92ifLm4CH4TtEEMwOeiLNeCWJ+k6LYsyE7IT7vJ
4+W5gHpz/qNDgyrsXplYp/LbNvnaR79D1taymqhaTuk4gh3S36zNDXHYYMFos4QW
vGU7Bm1MgQ8Yp4D4b8Wr705MMkKhlopVjPi0JYnwIfIpcH9eFEWaqr/pTKQgVuil
Jqg0JRprGB8AOEaj1LH3XXXs8xrqCs3X8c74ERlOM7gXdH8RY5ZEvHsQ0tNImMDF
AyYn/21Ra1Yylc2voULaY6N2jMtcbKe4oj6wIpKwpSedjwQb2CVxWOPvzY+tX05U
SDxakXnaxDlS9eItNzUs5tKS5Kvp/56h3C6O7b9fvBWK/ZHGwMdLl3CqphE7Cu8a
Y3C5nD4FHm/hH3O2On643lmQQygRCuULqqbAITi420u+ZoFS6Zukk3KafdvbS45+
r73YpN4Kj3ceqBvQqgy7lWLQxvPFZA2SOvF4FDqCTr887pXkP8TIJfhZ8bsbps7z
ay/892ZN+cy+/86P3WZH8I+HQxS1NHTEWx1lKsmZulX2hhr+tItoW8mHkiLoju8C
oEz+pwE2cR2Vh7LNf4eFrUD3/14ASxdlyT2o/HbrP2lh4SxczG7/9EfbjMfygHJ1
IMm2kyxaFUNQjR4RTSoEiAl1/e9ojiIctRo9LKtRN5uDSdf9w6XoQee+hhXlZx+x
9Z+/YdPnHm5+B42uaGgAoHueyhnh4g5X2AEr
-----END OpenVPN tls-crypt-v2 client key-----
`;

/** The same with `$(printf 'hello peer' | base64)` for metadata. */
export const clientKeyWithMetadataFile = `-----BEGIN OpenVPN tls-crypt-v2 client key-----
i1rwOIl8q+E7Tm3JrKhw1PD7H3Twte0JicAOBdE0s/6FezGiGYjknDCgSVeKxoOb
owVe1jxWPPuC/Jmwj8cy9qVC/5KXuiZBE/lJ4+CtwZvqxM0jjsjSTUx+4HBo56ze
I+DGYyIqhMcBpZqMQzmbwRBARN1dVVn7Xc9W3WQZX5Jy/N5RwWDILdGBORruFPhP
dEHcJgm1pZ8rfEzHV+qg7+fFtvhIpxbuqtJb72AVzT7BV4IRX/3GCfFQo5LuWux6
FC3tV8wW+TOV8ggEsbDULWcMO9GfYhE1UCmem8bTgY1AoqZkPK1TlUPqrVngI2Nz
7zCK+AoQi75wrMXh18KdiIJ8fAGbeeJHZsYLXWqny9CzP9h1oigeKvcfWbjhXact
8T4E3m80V0lprdSQeZo6RepbZJmHNdA3fG43gyWCcVxMQEW6ZaqDfH4HVmhlG79R
vbMR874iNmA2/B/7mRXkMP/eSnDrL4rEbqKLAABy0nHkE1aGxY7yRYbIAs6LfA03
NjRA8bn0bRoTd9YEuWri8gCc5TSMEST1NiNfWKAsJQuT8CHt0MsZqRBMp2K62ZkD
/SypHYL8ChHJI6aKNFVj6EhJJN/aiZg0M8oFK3PXokm+VXYiYhGq6GUeX3Oi+jEI
7696f0MBQM6l5dqzrgObPV147DOXV6F7QgBK08WajwrrlUBw3OeNy1cKNUHJl3G6
I8B+BRJT1tJM7OWtXc+Mq9Fx/WfMcJGuvcJGAS0=
-----END OpenVPN tls-crypt-v2 client key-----
`;

export const recorded: readonly Recorded[] = [
  { from: 'OpenVPN 2.6.14 client', transport: 'udp', wrap: 'none', hex: '38718c9cf02fcfc49d0000000000' },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-auth SHA1 0',
    hex: '38ab7b53fb1a74dfc15d4af8dabd241162889f603d7ec64016c9d13964000000016b03698f0000000000',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-auth SHA256 1',
    hex: '3898747cf3ebf88b5691be17b2d2da081355324ba28a3bb3cca318de827794ba66ace8163118a27b6f000000016b0369900000000000',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-auth SHA512 bidirectional',
    hex:
      '38b57aab376dd3f0ea323877d62f3d1d842d20658fbddb11fb1f0163514120a800aebf46bb99625135fe200ebedd69bcf15812851a42' +
      'b1accc4d15fc3b1624a6abf8fa971c162314d9000000016b0369920000000000',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-crypt',
    hex: '380f5ae0bbb4913322000000016b0369934955be496691ce0cfde8f35401396a1dff63427ba2162d1554fde02ffde376aaa16b8e61af',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-crypt',
    hex:
      '200f5ae0bbb4913322000000026b036993214ff061f8a49cb3088b776e43f7d36d7c96717377f0b3489f7ea28882c8c96fabecac0af3' +
      'cbb2c25e90cf5601648268102b782dbfddb58e99c0683cbddf33222250e3ba31d88f25d612ede877f34dfe13c0f6068066a25feb99d5' +
      '251078e7e73d2c8f339c8244530cb869f0cdad0d5f212dbf3bb397051e4f1a6f3ba2ec8e1b7777a5f2b63400055b5b4a1c44fc4bbd92' +
      '5e68f017c9f1649a9457e9d1ea3f46ffe35232d6a15e7e4d38c302b52b1714c985c28811dd84f2fe4f4dd14dd4fbd8dac0a370e83255' +
      '34c29e21253e2648e95c617290a793411e10999440c73ba1482466a834e529a1a1cff2c0f45fa92ced090300630a8e85cbb229539a24' +
      '798148ab449fbd2595612bde02783476e2276b89d3f99b39afa2009e302612b0e3cc2cc0d29c586ebe6c6c8e2918d6d28ca3a726914c' +
      '225447bffc326d101937a132f84c6c4cbbce8c',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-crypt-v2',
    hex:
      '50deb282f7c4750ed50f0000016b036995f46c92d9f8b0679bd26b5045142f4b81cd4f63a9d65cb774cbc9a221914d3bf8bace07418c' +
      'd292e4abe9ff9ea1dc2e8eedbf5fbc158afd91c6c0c74b9770aaa6113b0aef1a6370b99c3e051e6fe11f73b63a7eb8de59904328110a' +
      'e50baaa6c02138b8db4bbe668152e99ba493729a7ddbdb4b8e7eafbdd8a4de0a8f771ea81bd0aa0cbb9562d0c6f3c5640d923af17814' +
      '3a824ebf3cee95e43fc4c825f859f1bb1ba6cef36b2ffcf7664df9ccbeffce8fdd6647f08f874314b53474c45b1d652ac999ba55f686' +
      '1afeb48b685bc9879222e88eef02a04cfea70136711d9587b2cd7f8785ad40f7ff5e004b1765c93da8fc76eb3f6961e12c5ccc6efff4' +
      '47db8cc7f280727520c9b6932c5a1543508d1e114d2a04880975fdef688e221cb51a3d2cab51379b8349d7fdc3a5e841e7be8615e567' +
      '1fb1f59fbf61d3e71e6e7e078dae686800a07b9eca19e1e20e57d8012b',
  },
  {
    from: 'OpenVPN 2.6.14 client',
    transport: 'udp',
    wrap: 'tls-crypt-v2',
    hex:
      '58deb282f7c4750ed50f0000026b036995c905fbf0b5e06027be651ac30bcb1423801ff316dcba9247cc5f10d2072baf104509586c4c' +
      '0b78a69fe3774375cdb15d0a9d707fc205fb53640777729b42947a5ea4943c95330c4901e015bce635b8512ba4056d36f3e581f28ed0' +
      '922e315a823d16d364f94b7606e7941ba21a5aa3ca996a6e5f7a4b3c584b587a0d556d1869cc7de875435a9bef8257fc6478644223db' +
      'ed4dff1bec964626169e8bc5dbe215756d82c3240b32e621bc3a0a676b1f555e38d24accff206051462fb005a2f9ae91a856fe552f5f' +
      '42348166abf30fe522fef780a4d72f3550990a046202ae5612848f33da37f36ed9ec000a230fadda73c440e55a6d6b28beaeb14c685d' +
      '0c5202cbc93259e4757ea14a55e53ecbd35c9b1fc8a966be161f4d61a1a79d5c471a07ae292095e806d6ff63e75029b1f05d288db792' +
      'a124666732fbe858f7803340e8f1e2e7833380d292e4abe9ff9ea1dc2e8eedbf5fbc158afd91c6c0c74b9770aaa6113b0aef1a6370b9' +
      '9c3e051e6fe11f73b63a7eb8de59904328110ae50baaa6c02138b8db4bbe668152e99ba493729a7ddbdb4b8e7eafbdd8a4de0a8f771e' +
      'a81bd0aa0cbb9562d0c6f3c5640d923af178143a824ebf3cee95e43fc4c825f859f1bb1ba6cef36b2ffcf7664df9ccbeffce8fdd6647' +
      'f08f874314b53474c45b1d652ac999ba55f6861afeb48b685bc9879222e88eef02a04cfea70136711d9587b2cd7f8785ad40f7ff5e00' +
      '4b1765c93da8fc76eb3f6961e12c5ccc6efff447db8cc7f280727520c9b6932c5a1543508d1e114d2a04880975fdef688e221cb51a3d' +
      '2cab51379b8349d7fdc3a5e841e7be8615e5671fb1f59fbf61d3e71e6e7e078dae686800a07b9eca19e1e20e57d8012b',
  },
  {
    from: 'OpenVPN 2.7.8 client',
    transport: 'udp',
    wrap: 'tls-crypt-v2',
    hex:
      '50395274101d9cbb170f0000016b03699ff9e08cd35633e9817b8ddfb1ac969ad01ce69d0bc89442ee523cd4eef2857acba7a1e1a216' +
      'd292e4abe9ff9ea1dc2e8eedbf5fbc158afd91c6c0c74b9770aaa6113b0aef1a6370b99c3e051e6fe11f73b63a7eb8de59904328110a' +
      'e50baaa6c02138b8db4bbe668152e99ba493729a7ddbdb4b8e7eafbdd8a4de0a8f771ea81bd0aa0cbb9562d0c6f3c5640d923af17814' +
      '3a824ebf3cee95e43fc4c825f859f1bb1ba6cef36b2ffcf7664df9ccbeffce8fdd6647f08f874314b53474c45b1d652ac999ba55f686' +
      '1afeb48b685bc9879222e88eef02a04cfea70136711d9587b2cd7f8785ad40f7ff5e004b1765c93da8fc76eb3f6961e12c5ccc6efff4' +
      '47db8cc7f280727520c9b6932c5a1543508d1e114d2a04880975fdef688e221cb51a3d2cab51379b8349d7fdc3a5e841e7be8615e567' +
      '1fb1f59fbf61d3e71e6e7e078dae686800a07b9eca19e1e20e57d8012b',
  },
  {
    from: 'OpenVPN 2.7.8 client',
    transport: 'tcp',
    wrap: 'tls-crypt-v2',
    hex:
      '5042927ae3c53153000f0000016b0369a071cd41699cf7139e494521c3f11dcdb9b2a563ea2a3ceae1ddb366f6fdcb5cb91f40e2bf24' +
      'd292e4abe9ff9ea1dc2e8eedbf5fbc158afd91c6c0c74b9770aaa6113b0aef1a6370b99c3e051e6fe11f73b63a7eb8de59904328110a' +
      'e50baaa6c02138b8db4bbe668152e99ba493729a7ddbdb4b8e7eafbdd8a4de0a8f771ea81bd0aa0cbb9562d0c6f3c5640d923af17814' +
      '3a824ebf3cee95e43fc4c825f859f1bb1ba6cef36b2ffcf7664df9ccbeffce8fdd6647f08f874314b53474c45b1d652ac999ba55f686' +
      '1afeb48b685bc9879222e88eef02a04cfea70136711d9587b2cd7f8785ad40f7ff5e004b1765c93da8fc76eb3f6961e12c5ccc6efff4' +
      '47db8cc7f280727520c9b6932c5a1543508d1e114d2a04880975fdef688e221cb51a3d2cab51379b8349d7fdc3a5e841e7be8615e567' +
      '1fb1f59fbf61d3e71e6e7e078dae686800a07b9eca19e1e20e57d8012b',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'none',
    hex: '402e4e27aea9763081010000000038305b4ec9015f4900000000',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-auth SHA1 0',
    hex: '40945dc55b2a5b8983c2d822794bf7746792715b04ee71c9ee10e3c5ff000000016b03699a0100000000de5b9dd04ad4bf3100000000',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-auth SHA256 1',
    hex:
      '40293541e4bbe8e51e950e3f1ae37adabd188490a64ec672f9ae7652e30b8633dfe0dbab5424abc1d2000000016b03699b0100000000' +
      'dd0d62ba4bc8923000000000',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-auth SHA512 bidirectional',
    hex:
      '40016ba406cca6ad427566415477782c264268e0f7a118b2151f026800cb0dfedc9c70281b2d3626c0c2fbc60d11f7f2ddd1ed55c4f3' +
      '2861e75cc28dced4265b2c0cd34baa42fe6f5b000000016b03699d0100000000ca88c022aada1d7300000000',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-crypt',
    hex:
      '40729fa6f320efdc66000000016b03699e84f8d906bdc8f1760acb0cf72871b4bd5ff3c94a6318a9355623e85367dc5d0b53ff8c4442' +
      'e39d03f0d4c2274f10a52a9e',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-crypt-v2',
    hex:
      '40536498f6a055a81c000000016b0369a0a2b9d1a2dec445001df6077441cfe92d2f1b9c9b82d5961d69a31cfcd30a5d5558a7e959ff' +
      '95b350084fa36c42a5d0cb22fdc582770743',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-crypt-v2',
    hex:
      '28536498f6a055a81c000000026b0369a00830afd5e6db591bb09bc7357f5ca5e262543ca1a30ad5dea9415e001f594da97f1cef9b44' +
      'c50340e2c3054178',
  },
  {
    from: 'OpenVPN 2.6.14 server',
    transport: 'tcp',
    wrap: 'tls-crypt-v2',
    hex:
      '407c94f6cb55e77e4d0f0000016b036996f285e8f09bb8c1c50c78608db8872a665140473c6c4ebc3215059daabbf987cd8f7570e40b' +
      '2bf803149b56afc8be721550',
  },
];

/** A server's answers to SOFT_RESET under dynamic tls-crypt, with what TLS exported in those sessions. */
export const recordedDynamic: readonly (Recorded & { readonly exported: string })[] = [
  {
    from: 'OpenVPN 2.6.14 server',
    transport: 'udp',
    wrap: 'none',
    exported:
      '092fd3a6ec845084848fa3a11b641a8cac22cae434246389fa8cff680b3dd9a4462fe039ff557eb215ffbcd946222a215f76b792' +
      '4217970df0fc955dddd075a76a3aa9c7724d573c9acfa1be0fc39e50e668a1d1ef12b82c2745974391718ebf6916272224f42e49' +
      '107f3c627b2c30e0b24682f1b3539f636bca94935c100caca634892acfaf1cdd8b4c97812700c784a01127992b3c9d78931d1e9f' +
      '9e2f996ba899f168fb70c926912d833c6536dc19ae5314e7e48f19321213ff4185dc6a699a7326a54aa9132f9bc547c562ad069f' +
      '19f49637ef05d0766a2ddfed19b020ffa54b139cd4d43830417f480ad783fa1c056f4504705ca783971723b7f93b36cd',
    hex:
      '19bf34594479258c4b000000016b036bb7bae3fbedad3b07c5b34325d5b233784c2f09830b5e44341dec4e563dbc8d5b2c2543d8' +
      '10c436b7f3119a352f5abd237938',
  },
  {
    from: 'OpenVPN 2.6.14 server',
    transport: 'udp',
    wrap: 'tls-crypt',
    exported:
      'b5908eba43b6e4ecab9d52820d92e16d39004c4805c448c5c61cc631ba5260a5f29fe7148e069713c4b5b91c5b893a25dacd4ef0' +
      '0ac4f6f39c91ec68559282cacdb4c56dbd15d1fd2b4744c48cd44080b2e4d4882400dcf678b7d78ec6aa1f1698f42b541802a644' +
      '3ae4e4dd7f8208f2a8867c05604afbc89f3d43d2c47d30cb3937bc3aa8a9110d6c42d271d23ac90bb3309d96c23f9dccc7e27343' +
      '47a3eab6ac06a33140041e03d22636b64bc7da7072f173db21adbb714551b1ecb460d76d44e3c2f864311a09e4a32ee0e09daebc' +
      '9ffef6cd19f8eb596b171b14036d88362d7dc809774d37f8f35fe52cd1d0cfa28d75289015e0d1de55494320b909ae3c',
    hex:
      '19157181e65c41f6d8000000016b036bb8f78a0db9ba18dce68c9848d7432c1e66afa4f089f5710f34e5d59455a1ec297d80b81e' +
      'c61d76e3bfab4dbe9034e4700ba7',
  },
  {
    from: 'OpenVPN 2.7.8 server',
    transport: 'udp',
    wrap: 'tls-auth SHA256 1',
    exported:
      '2a24c5cd4f67f58d70df24e39a0b8cd593def31ce37eaece9dffcae4aef30f4711023ae4a7b4ce1763b7091bdfbd1e7c5738a016' +
      'a0f8c545e428e6608d8846e9ff8d42b3d3b80def44852ad80881f953c7d04ed4378c34e46fce1202791d875d292a0c0bd444f09c' +
      'f8aa2cc15250f88252bac012718f1fcbaba1e55fbf589b14c5a11a4f73620e47ca0d2c0a32b7a5b4608a6626bdfaee8ae4de4f5f' +
      '2fad5c757cea26fc72c14083118ac684b3066912ff6d21cf5177b69809b9bd604d377aaf3459a3840a4bfcd21bd625e10fb0dcdb' +
      '0423a784b1d73701d0b17fb9b7b3533b5537c50f835836cc1845718de21d5c379efed548f05912dbf69c01668fcc8f3a',
    hex:
      '19595fdf5c826a2e82000000016b036bb906d86816fa7067693a56af4547acf5e4cd63d063c66edc345d12e2824a65ca8de998a4' +
      'fbd734645776b063f132291a5a64',
  },
];
