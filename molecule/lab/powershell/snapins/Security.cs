// The Cert: drive, certificates without Windows' key storage, and what Wine lacks: loaded by the engine as its security snap-in.
// Needs no SDK: the lab's own powershell.exe compiles it (../build_snapins.sh). The version must not be below the engine's.
using System;
using System.Collections.Generic;
using System.Formats.Asn1;
using System.IO;
using System.Linq;
using System.Management.Automation;
using System.Management.Automation.Provider;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using LabPwsh;

[assembly: System.Reflection.AssemblyVersion("7.6.99.500")]
namespace LabSecurity;

// ---- Cert:\ : each certificate is a PEM file, with its key if it has one, that the lab's WinRM server reads ----
public static class Certificates
{
    public static string Root => Path.Combine(Path.GetDirectoryName(Environment.GetEnvironmentVariable("LAB_STATE") ?? (OperatingSystem.IsWindows() ? @"C:\lab\state.json" : "/tmp/lab-state.json")), "certs");
    static readonly string[] Known = { "My", "Root", "CA", "TrustedPeople", "TrustedPublisher", "Disallowed" };
    public static readonly string[] Locations = { "CurrentUser", "LocalMachine" };
    public static IEnumerable<string> Stores(string location)
    {
        var folder = Path.Combine(Root, location);
        return (Directory.Exists(folder) ? Directory.GetDirectories(folder).Select(Path.GetFileName) : Array.Empty<string>()).Union(Known, StringComparer.OrdinalIgnoreCase);
    }
    public static string Folder(string store) => Path.Combine(Root, Path.Combine(Split(store)));
    public static string[] Split(string path) => System.Text.RegularExpressions.Regex.Replace(path ?? "", @"^(.*::)?(Cert:)?", "", System.Text.RegularExpressions.RegexOptions.IgnoreCase).Split(new[] { '\\', '/' }, StringSplitOptions.RemoveEmptyEntries);
    public static IEnumerable<PSObject> List(string store)
    {
        var folder = Folder(store);
        return Directory.Exists(folder) ? Directory.GetFiles(folder, "*.pem").OrderBy(x => x).Select(Read) : Array.Empty<PSObject>();
    }
    public static PSObject Get(string store, string thumbprint)
    {
        var file = Path.Combine(Folder(store), thumbprint.ToUpperInvariant() + ".pem");
        return File.Exists(file) ? Read(file) : null;
    }
    static PSObject Read(string file)
    {
        var text = File.ReadAllText(file); var at = text.IndexOf("-----BEGIN CERTIFICATE-----", StringComparison.Ordinal);
        var end = text.IndexOf("-----END CERTIFICATE-----", StringComparison.Ordinal);
        var certificate = X509CertificateLoader.LoadCertificate(Convert.FromBase64String(text[(at + 27)..end]));
        return Dress(certificate, text.Contains("PRIVATE KEY"), text.StartsWith("FriendlyName: ") ? text[14..text.IndexOf('\n')].Trim() : "");
    }
    static PSObject Dress(X509Certificate2 certificate, bool key, string friendlyName)
    {
        var o = new PSObject(certificate);
        void note(string name, object value) => o.Properties.Add(new PSNoteProperty(name, value), true);
        var names = certificate.Extensions.OfType<X509SubjectAlternativeNameExtension>().SelectMany(x => x.EnumerateDnsNames()).Select(n => { var d = new PSObject(); d.Properties.Add(new PSNoteProperty("Unicode", n)); d.Properties.Add(new PSNoteProperty("Punycode", n)); d.Methods.Add(new PSScriptMethod("ToString", ScriptBlock.Create("$this.Unicode"))); return d; }).ToArray();
        note("HasPrivateKey", key); note("FriendlyName", friendlyName); note("DnsNameList", names);
        note("EnhancedKeyUsageList", certificate.Extensions.OfType<X509EnhancedKeyUsageExtension>().SelectMany(x => x.EnhancedKeyUsages.Cast<Oid>()).Select(x => { var d = new PSObject(); d.Properties.Add(new PSNoteProperty("FriendlyName", x.FriendlyName)); d.Properties.Add(new PSNoteProperty("ObjectId", x.Value)); return d; }).ToArray());
        return o;
    }
    public static PSObject Add(string store, X509Certificate2 certificate, string key, string friendlyName)
    {
        Directory.CreateDirectory(Folder(store));
        File.WriteAllText(Path.Combine(Folder(store), certificate.Thumbprint + ".pem"),
            (string.IsNullOrEmpty(friendlyName) ? "" : $"FriendlyName: {friendlyName}\n") + PemEncoding.WriteString("CERTIFICATE", certificate.RawData) + "\n" + (key == null ? "" : key + "\n"));
        return Get(store, certificate.Thumbprint);
    }
    /// <summary>A self-signed RSA certificate. Wine 8 can neither export nor attach private keys, so key and signature are made here.</summary>
    public static PSObject Make(string store, string subject, string[] dns, string[] addresses, DateTime from, DateTime to, string friendlyName, int bits)
    {
        var key = new Rsa(bits);
        var request = new CertificateRequest(new X500DistinguishedName(subject), key.PublicKey, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature | X509KeyUsageFlags.KeyEncipherment, true));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension(new OidCollection { new Oid("1.3.6.1.5.5.7.3.2"), new Oid("1.3.6.1.5.5.7.3.1") }, false));
        if (dns.Length + addresses.Length > 0)
        {
            var names = new SubjectAlternativeNameBuilder();
            foreach (var d in dns) names.AddDnsName(d);
            foreach (var a in addresses) names.AddIpAddress(System.Net.IPAddress.Parse(a));
            request.CertificateExtensions.Add(names.Build());
        }
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(key.PublicKey, false));
        var serial = RandomNumberGenerator.GetBytes(16); serial[0] = (byte)(serial[0] & 0x7f | 1);
        return Add(store, request.Create(request.SubjectName, key, from, to, serial), key.Pem(), friendlyName);
    }
}
/// <summary>Enough RSA for a self-signed certificate.</summary>
public sealed class Rsa : X509SignatureGenerator
{
    readonly BigInteger n, e = 65537, d, p, q; readonly int size;
    public Rsa(int bits)
    {
        size = bits / 8;
        do { p = Prime(bits / 2); q = Prime(bits / 2); n = p * q; } while (p == q || (p - 1) % e == 0 || (q - 1) % e == 0);
        d = Inverse(e, (p - 1) * (q - 1));
    }
    static BigInteger Number(byte[] b) => new(b, true, true);
    static BigInteger Inverse(BigInteger a, BigInteger m)
    {
        BigInteger r0 = m, r1 = a, t0 = 0, t1 = 1;
        while (r1 != 0) { var k = r0 / r1; (r0, r1) = (r1, r0 - k * r1); (t0, t1) = (t1, t0 - k * t1); }
        return t0 < 0 ? t0 + m : t0;
    }
    static readonly int[] Small = Enumerable.Range(3, 4000).Where(x => x % 2 == 1 && Enumerable.Range(2, (int)Math.Sqrt(x) - 1).All(y => x % y != 0)).ToArray();
    static BigInteger Prime(int bits)
    {
        while (true)
        {
            var b = RandomNumberGenerator.GetBytes(bits / 8); b[0] |= 0xC0; b[^1] |= 1;
            var x = Number(b);
            if (Small.Any(s => x % s == 0)) continue;
            var odd = x - 1; int twos = 0; while (odd.IsEven) { odd >>= 1; twos++; }
            bool witness()
            {
                var y = BigInteger.ModPow(Number(RandomNumberGenerator.GetBytes(bits / 8 - 1)) + 2, odd, x);
                if (y == 1 || y == x - 1) return false;
                for (int i = 1; i < twos; i++) { y = y * y % x; if (y == x - 1) return false; }
                return true;
            }
            if (!Enumerable.Range(0, 12).Any(_ => witness())) return x;
        }
    }
    protected override PublicKey BuildPublicKey()
    {
        var w = new AsnWriter(AsnEncodingRules.DER);
        using (w.PushSequence()) { w.WriteInteger(n); w.WriteInteger(e); }
        return new PublicKey(new Oid("1.2.840.113549.1.1.1"), new AsnEncodedData(new byte[] { 5, 0 }), new AsnEncodedData(w.Encode()));
    }
    public override byte[] GetSignatureAlgorithmIdentifier(HashAlgorithmName hash)
    {
        var w = new AsnWriter(AsnEncodingRules.DER);
        using (w.PushSequence()) { w.WriteObjectIdentifier("1.2.840.113549.1.1.11"); w.WriteNull(); }
        return w.Encode();
    }
    public override byte[] SignData(byte[] data, HashAlgorithmName hash)
    {
        byte[] prefix = { 0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20 }, digest = SHA256.HashData(data);
        var padded = new byte[size]; Array.Fill(padded, (byte)0xff); padded[0] = 0; padded[1] = 1; padded[size - prefix.Length - 33] = 0;
        prefix.CopyTo(padded, size - prefix.Length - 32); digest.CopyTo(padded, size - 32);
        var s = BigInteger.ModPow(Number(padded), d, n).ToByteArray(true, true); var signature = new byte[size]; s.CopyTo(signature, size - s.Length);
        return signature;
    }
    public string Pem()
    {
        var w = new AsnWriter(AsnEncodingRules.DER);
        using (w.PushSequence()) foreach (var x in new[] { 0, n, e, d, p, q, d % (p - 1), d % (q - 1), Inverse(q, p) }) w.WriteInteger(x);
        return PemEncoding.WriteString("RSA PRIVATE KEY", w.Encode());
    }
}
[CmdletProvider("Certificate", ProviderCapabilities.ShouldProcess)]
public sealed class CertificateProvider : NavigationCmdletProvider
{
    protected override System.Collections.ObjectModel.Collection<PSDriveInfo> InitializeDefaultDrives() => new() { new PSDriveInfo("Cert", ProviderInfo, "", "X509 Certificate Provider", null) };
    protected override ProviderInfo Start(ProviderInfo providerInfo) { WineGaps.Fill(); Adsi.Replace(); Compiled.Replace(); Policy.Enforce(this); return providerInfo; }
    protected override bool IsValidPath(string path) => true;
    object Find(string path)
    {
        var w = Certificates.Split(path);
        PSObject container(string key, string value) { var o = new PSObject(); o.Properties.Add(new PSNoteProperty(key, value)); return o; }
        if (w.Length == 0) return container("Location", "");
        if (!Certificates.Locations.Contains(w[0], StringComparer.OrdinalIgnoreCase)) return null;
        if (w.Length == 1) return container("Location", w[0]);
        if (w.Length == 2) return Certificates.Stores(w[0]).Contains(w[1], StringComparer.OrdinalIgnoreCase) ? container("Name", w[1]) : null;
        return w.Length == 3 ? Certificates.Get($"{w[0]}\\{w[1]}", w[2]) : null;
    }
    string[] Children(string path)
    {
        var w = Certificates.Split(path);
        return w.Length == 0 ? Certificates.Locations : w.Length == 1 ? Certificates.Stores(w[0]).ToArray()
            : w.Length == 2 ? Certificates.List(path).Select(x => ((X509Certificate2)x.BaseObject).Thumbprint).ToArray() : Array.Empty<string>();
    }
    protected override bool ItemExists(string path) => Find(path) != null;
    protected override bool IsItemContainer(string path) => Certificates.Split(path).Length < 3 && Find(path) != null;
    protected override bool HasChildItems(string path) => Children(path).Length > 0;
    protected override void GetItem(string path) { var o = Find(path); if (o != null) WriteItemObject(o, path, IsItemContainer(path)); }
    protected override void GetChildItems(string path, bool recurse)
    {
        foreach (var name in Children(path))
        {
            var child = MakePath(path, name); GetItem(child);
            if (recurse && IsItemContainer(child)) GetChildItems(child, true);
        }
    }
    protected override void GetChildNames(string path, ReturnContainers all) { foreach (var name in Children(path)) WriteItemObject(name, MakePath(path, name), IsItemContainer(MakePath(path, name))); }
    protected override void RemoveItem(string path, bool recurse)
    {
        var w = Certificates.Split(path);
        if (w.Length == 3 && ShouldProcess(path, "Remove certificate")) File.Delete(Path.Combine(Certificates.Folder($"{w[0]}\\{w[1]}"), w[2].ToUpperInvariant() + ".pem"));
    }
}

// ---- the execution policy: Restricted on a new client Windows; the engine here was built without it ----
public sealed class Policy : AuthorizationManager
{
    const string Variable = "LAB_EXECUTION_POLICY", Key = @"SOFTWARE\Microsoft\PowerShell\1\ShellIds\Microsoft.PowerShell"; // the variable: process scope, which children inherit
    static readonly System.Reflection.BindingFlags Hidden = System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Public | System.Reflection.BindingFlags.Instance;
    public static readonly string[] Scopes = { "MachinePolicy", "UserPolicy", "Process", "CurrentUser", "LocalMachine" };
    static bool read;
    Policy() : base("Microsoft.PowerShell") { }
    public static void Enforce(CmdletProvider provider)
    {
        if (!OperatingSystem.IsWindows()) return;
        if (!read) { read = true; ReadCommandLine(); }
        var context = typeof(CmdletProvider).GetProperty("Context", Hidden)?.GetValue(provider);
        var engine = context?.GetType().GetProperty("ExecutionContext", Hidden)?.GetValue(context);
        engine?.GetType().GetProperty("AuthorizationManager", Hidden)?.SetValue(engine, new Policy());
    }
    static void ReadCommandLine()
    {
        var words = Environment.GetCommandLineArgs();
        for (var i = 1; i + 1 < words.Length; i++)
        {
            if (words[i].Length < 2 || words[i][0] is not ('-' or '/')) return;
            var word = words[i][1..].ToLowerInvariant();
            if (word is "ep" || word.Length >= 2 && "executionpolicy".StartsWith(word)) { Environment.SetEnvironmentVariable(Variable, words[i + 1]); return; }
            if ("file".StartsWith(word) || "command".StartsWith(word) || "encodedcommand".StartsWith(word) && word is not "ex" || word is "ec") return;
            if (!("noprofile".StartsWith(word) || "noninteractive".StartsWith(word) || "nologo".StartsWith(word) || "noexit".StartsWith(word) || word is "sta" or "mta")) i++;
        }
    }
    public static string Get(string scope)
    {
        if (scope == "Process") return Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } own ? own : "Undefined";
        if (scope is not ("CurrentUser" or "LocalMachine")) return "Undefined";
        using var key = (scope == "CurrentUser" ? Microsoft.Win32.Registry.CurrentUser : Microsoft.Win32.Registry.LocalMachine).OpenSubKey(Key);
        return key?.GetValue("ExecutionPolicy") as string ?? "Undefined";
    }
    public static void Set(string scope, string policy)
    {
        var none = policy.Equals("Undefined", StringComparison.OrdinalIgnoreCase);
        if (scope == "Process") { Environment.SetEnvironmentVariable(Variable, none ? null : policy); return; }
        using var key = (scope == "CurrentUser" ? Microsoft.Win32.Registry.CurrentUser : Microsoft.Win32.Registry.LocalMachine).CreateSubKey(Key);
        if (none) key.DeleteValue("ExecutionPolicy", false); else key.SetValue("ExecutionPolicy", policy);
    }
    public static string Effective() => Scopes.Select(Get).FirstOrDefault(x => !x.Equals("Undefined", StringComparison.OrdinalIgnoreCase)) ?? "Restricted";
    protected internal override bool ShouldRun(CommandInfo command, CommandOrigin origin, System.Management.Automation.Host.PSHost host, out Exception reason)
    {
        reason = null;
        if (command is not ExternalScriptInfo script || script.Path.StartsWith(Program.Home, StringComparison.OrdinalIgnoreCase)) return true; // the doubles stand for Windows' own, signed modules
        var policy = Effective().ToLowerInvariant();
        if (policy is "unrestricted" or "bypass" or "remotesigned") return true; // where a file came from is not kept here
        var more = "For more information, see about_Execution_Policies at https:/go.microsoft.com/fwlink/?LinkID=135170.";
        reason = new PSSecurityException(policy == "allsigned" ? $"File {script.Path} cannot be loaded. The file {script.Path} is not digitally signed. You cannot run this script on the current system. {more}"
            : $"File {script.Path} cannot be loaded because running scripts is disabled on this system. {more}");
        return false;
    }
}
[Cmdlet("Get", "ExecutionPolicy")]
public sealed class GetExecutionPolicy : PSCmdlet
{
    [Parameter(Position = 0)] public string Scope { get; set; }
    [Parameter] public SwitchParameter List { get; set; }
    static Microsoft.PowerShell.ExecutionPolicy As(string policy) => Enum.Parse<Microsoft.PowerShell.ExecutionPolicy>(policy, true);
    protected override void ProcessRecord()
    {
        if (List) foreach (var scope in Policy.Scopes) { var o = new PSObject(); o.Properties.Add(new PSNoteProperty("Scope", scope)); o.Properties.Add(new PSNoteProperty("ExecutionPolicy", As(Policy.Get(scope)))); WriteObject(o); }
        else WriteObject(As(Scope == null ? Policy.Effective() : Policy.Get(Scope)));
    }
}
[Cmdlet("Set", "ExecutionPolicy", SupportsShouldProcess = true)]
public sealed class SetExecutionPolicy : PSCmdlet
{
    [Parameter(Position = 0, Mandatory = true)] public Microsoft.PowerShell.ExecutionPolicy ExecutionPolicy { get; set; }
    [Parameter(Position = 1), ValidateSet("Process", "CurrentUser", "LocalMachine")] public string Scope { get; set; } = "LocalMachine";
    [Parameter] public SwitchParameter Force { get; set; }
    protected override void ProcessRecord() { if (ShouldProcess(ExecutionPolicy.ToString())) Policy.Set(Policy.Scopes.First(x => x.Equals(Scope, StringComparison.OrdinalIgnoreCase)), ExecutionPolicy.ToString()); }
}

// ---- what Wine lacks: C# that Ansible compiles at run time finds kernel32 and advapi32 in labwin32.dll ----
public static class WineGaps
{
    static bool filled;
    public static void Fill()
    {
        if (filled) return;
        filled = true;
        var library = Path.Combine(Program.Home, "labwin32.dll");
        if (!OperatingSystem.IsWindows() || !File.Exists(library)) return;
        void redirect(System.Reflection.Assembly assembly)
        {
            try { NativeLibrary.SetDllImportResolver(assembly, (name, _, _) => name.ToLowerInvariant() is "kernel32" or "kernel32.dll" or "advapi32" or "advapi32.dll" ? NativeLibrary.Load(library) : 0); }
            catch (InvalidOperationException) { }
        }
        redirect(typeof(System.Security.Principal.SecurityIdentifier).Assembly);
        redirect(typeof(System.Diagnostics.Process).Assembly);
        AppDomain.CurrentDomain.AssemblyLoad += (_, loaded) => { if (!loaded.LoadedAssembly.IsDynamic && loaded.LoadedAssembly.Location == "") redirect(loaded.LoadedAssembly); };
    }
}

// ---- [ADSI] "WinNT://…": the real one hangs under Wine; modules ask it whether a name is a local group or user ----
public sealed class Adsi
{
    public string Path { get; }
    public string Name { get; }
    public string SchemaClassName { get; }
    public Adsi(string path) : this(path, path.Split('/', ',').LastOrDefault(x => x is not ("computer" or "user" or "group")), "Computer") { }
    Adsi(string path, string name, string kind) { Path = path; Name = name; SchemaClassName = kind; }
    public IEnumerable<Adsi> Children => SchemaClassName != "Computer" ? Array.Empty<Adsi>()
        : new[] { "Administrators", "Users", "Guests", "Remote Management Users" }.Select(x => new Adsi($"{Path}/{x}", x, "Group")).Append(new Adsi($"{Path}/{Environment.UserName}", Environment.UserName, "User"));
    public static void Replace() => Names.Set("adsi", typeof(Adsi));
}
